# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mmpretrain::_base_/models/resnet50.py'

model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    backbone=dict(type='RLAResNet', rla_channels=32, return_hidden=True),
    neck=dict(type='RLANeck', rla_channels=32),
    head=dict(type='RLALinearClsHead', rla_channels=32),
)
