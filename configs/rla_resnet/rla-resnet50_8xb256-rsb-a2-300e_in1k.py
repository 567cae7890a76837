# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond the paper: the strong recipe A2 of "ResNet strikes back", with the
# settings that mmpretrain has for ResNet-50.
_base_ = [
    '../_base_/models/rla-resnet50.py',
    'mmpretrain::_base_/datasets/imagenet_bs256_rsb_a12.py',
    'mmpretrain::_base_/schedules/imagenet_bs2048_rsb.py',
    '../_base_/cls_runtime.py',
]

model = dict(
    backbone=dict(drop_path_rate=0.05),
    head=dict(loss=dict(use_sigmoid=True)),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)]
    ),
)
train_dataloader = dict(sampler=dict(type='RepeatAugSampler', shuffle=True))
optim_wrapper = dict(paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.0001,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=295,
        eta_min=1.0e-6,
        by_epoch=True,
        begin=5,
        end=300,
    ),
]
train_cfg = dict(max_epochs=300)
