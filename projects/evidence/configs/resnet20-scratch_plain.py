# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# ResNet-20 from random weights, on the same images for longer.
_base_ = 'resnet20_plain.py'

model = dict(
    backbone=dict(_delete_=True, type='RLACIFARResNet', depth=20, rla_channels=0),
    head=dict(init_cfg=None),
)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(eta_max=0.1, total_steps=8)
train_cfg = dict(max_epochs=8)
