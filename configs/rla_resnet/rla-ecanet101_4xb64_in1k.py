# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'rla-resnet101_4xb64_in1k.py'

model = dict(
    backbone=dict(
        plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')],
    )
)
