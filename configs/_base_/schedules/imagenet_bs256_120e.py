# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# ImageNet recipe of the paper for ResNets (Appendix B.2.1): SGD with momentum
# 0.9 and weight decay 1e-4, 0.1 x 0.1 every 30 of 120 epochs, 256 images: 4
# GPUs, 64 images each.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
)
param_scheduler = dict(milestones=[30, 60, 90], gamma=0.1)
train_cfg = dict(max_epochs=120)
auto_scale_lr = dict(base_batch_size=256)
