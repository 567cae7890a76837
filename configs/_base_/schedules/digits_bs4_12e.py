# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'digits_bs8_6e.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs, end=max_epochs)
auto_scale_lr = dict(base_batch_size=4)
