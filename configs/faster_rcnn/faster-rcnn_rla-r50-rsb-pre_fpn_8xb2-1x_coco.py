# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# mmdet's config and one word: starts from mmpretrain's "strikes back" weights.
_base_ = [
    'mmdet::resnet_strikes_back/faster-rcnn_r50-rsb-pre_fpn_1x_coco.py',
    '../_base_/rla.py',
]

model = dict(backbone=dict(type='RLAResNet'))
