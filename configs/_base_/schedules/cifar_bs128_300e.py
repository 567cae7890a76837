# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR recipe of the paper (Section 4.1): Nesterov SGD with momentum 0.9 and
# weight decay 1e-4, 0.1 x 0.1 after epochs 150 and 225 of 300, 128 images on
# 1 GPU.
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001, nesterov=True)
)
param_scheduler = dict(milestones=[150, 225], gamma=0.1)
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=128)
