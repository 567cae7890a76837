# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Not in the paper. mmdet's config, with the smaller ResNet of torchvision.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/rla.py']

model = dict(
    backbone=dict(
        type='RLAResNet',
        depth=34,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
