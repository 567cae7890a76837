# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mobilenet-v2_2xb48_in1k.py'

model = dict(
    backbone=dict(
        type='RLAMobileNetV2',
        rla_channels=0,
        plugins=[dict(cfg=dict(type='SELayer'), position='after_conv3')],
    )
)
