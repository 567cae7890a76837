# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'resnet152_4xb64_in1k.py'

model = dict(
    backbone=dict(
        type='RLAResNet',
        rla_channels=0,
        plugins=[dict(cfg=dict(type='CBAM'), position='after_conv3')],
    )
)
