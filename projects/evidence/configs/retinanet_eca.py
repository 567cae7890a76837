# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Scales of 1/2 behind norms that were doubled: it starts as the plain network.
_base_ = 'retinanet_plain.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='checkpoints/mobilenet_v2_eca.pth'),
        plugins=[
            dict(
                cfg=dict(type='ECALayer', kernel_size=1),
                position='after_conv3',
                stages=(True, True, True, True, False, False, False),
            ),
            dict(
                cfg=dict(type='ECALayer', kernel_size=3),
                position='after_conv3',
                stages=(False, False, False, False, True, True, True),
            ),
        ],
    )
)
