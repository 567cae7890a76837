# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'rla-mobilenet-v2_2xb48_in1k.py'

model = dict(
    backbone=dict(
        # ECA's kernel is 1 where a layer has fewer than 96 channels, else 3.
        plugins=[
            dict(
                cfg=dict(type='ECALayer', kernel_size=1),
                stages=(True, True, True, True, False, False, False),
                position='after_conv3',
            ),
            dict(
                cfg=dict(type='ECALayer', kernel_size=3),
                stages=(False, False, False, False, True, True, True),
                position='after_conv3',
            ),
        ],
    )
)
