# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The last 1x1 conv of the backbone reads the last hidden state: neck and head are
# the plain network's.
_base_ = 'mmpretrain::_base_/models/mobilenet_v2_1x.py'

model = dict(_scope_='mmpretrain', backbone=dict(type='RLAMobileNetV2'))
