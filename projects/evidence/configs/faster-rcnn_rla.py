# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'faster-rcnn_plain.py'

model = dict(backbone=dict(rla_channels=32))
