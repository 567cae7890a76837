# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond the paper: the strong recipe A3 of "ResNet strikes back", with the
# settings that mmpretrain has for ResNet-50.
_base_ = [
    '../_base_/models/rla-resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs256_rsb_a3.py',
    'mmpretrain::_base_/schedules/imagenet_bs2048_rsb.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    head=dict(loss=dict(use_sigmoid=True)),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)]
    ),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.008),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
