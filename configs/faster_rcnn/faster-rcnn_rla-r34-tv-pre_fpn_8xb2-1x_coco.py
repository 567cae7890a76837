# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'faster-rcnn_rla-r18-tv-pre_fpn_8xb2-1x_coco.py'

model = dict(
    backbone=dict(
        depth=34,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet34'),
    )
)
