# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# A non-local block in every block of stage c4, as mmdet's plugins put it. The paper's
# "+1 NL" has one, before the last block of c4.
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='NonLocal2d'),
                stages=(False, False, True, False),
                position='after_conv3',
            )
        ]
    )
)
