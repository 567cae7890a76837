# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# ImageNet recipe of the paper for MobileNetV2 (Appendix B.2.1): SGD with
# momentum 0.9 and weight decay 4e-5, 0.045 x 0.98 each of 400 epochs, 96
# images: 2 GPUs, 48 images each.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_epochstep.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.045, momentum=0.9, weight_decay=4e-5)
)
param_scheduler = dict(step_size=1, gamma=0.98)
train_cfg = dict(max_epochs=400)
auto_scale_lr = dict(base_batch_size=96)
