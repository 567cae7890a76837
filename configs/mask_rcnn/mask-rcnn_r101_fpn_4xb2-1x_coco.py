# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    )
)
