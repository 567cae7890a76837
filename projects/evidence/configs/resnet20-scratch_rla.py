# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'resnet20-scratch_plain.py'

model = dict(
    backbone=dict(rla_channels=8, return_hidden=True),
    neck=dict(type='RLANeck', rla_channels=8),
    head=dict(rla_channels=8),
)
