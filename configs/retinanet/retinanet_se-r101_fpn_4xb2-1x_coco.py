# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The weights are those that configs/baselines/se-resnet101_4xb64_in1k.py trains.
_base_ = 'retinanet_r101_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        plugins=[dict(cfg=dict(type='SELayer'), position='after_conv3')],
        init_cfg=dict(
            prefix='backbone.', checkpoint='checkpoints/se-resnet101_4xb64_in1k.pth'
        ),
    )
)
