# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'resnet110_cifar.py'

model = dict(
    backbone=dict(rla_channels=4, return_hidden=True),
    neck=dict(type='RLANeck', rla_channels=4),
    head=dict(type='RLALinearClsHead', rla_channels=4),
)
