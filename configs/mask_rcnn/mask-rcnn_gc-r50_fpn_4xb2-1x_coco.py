# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# A global context block in every block of stages c3 to c5 (GCNet).
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        plugins=[
            dict(
                cfg=dict(type='ContextBlock', ratio=1.0 / 16),
                stages=(False, True, True, True),
                position='after_conv3',
            )
        ]
    )
)
