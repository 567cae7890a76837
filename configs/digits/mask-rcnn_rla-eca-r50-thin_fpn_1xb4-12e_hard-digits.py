# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_r50-thin_fpn_1xb4-12e_hard-digits.py'

model = dict(
    backbone=dict(
        rla_channels=8,
        plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')],
    )
)
