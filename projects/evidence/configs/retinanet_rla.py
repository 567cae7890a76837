# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'retinanet_plain.py'

model = dict(backbone=dict(rla_channels=32))
