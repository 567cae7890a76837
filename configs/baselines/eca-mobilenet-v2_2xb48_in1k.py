# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mobilenet-v2_2xb48_in1k.py'

# ECA's kernel is 1 where a setting has fewer than 96 channels, else 3.
narrow = dict(type='ECALayer', kernel_size=1)
wide = dict(type='ECALayer', kernel_size=3)
model = dict(
    backbone=dict(
        type='AttentionMobileNetV2',
        attention=[narrow, narrow, narrow, narrow, wide, wide, wide],
    )
)
