# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'faster-rcnn_r50-thin_fpn_1xb4-12e_hard-digits.py'

model = dict(backbone=dict(rla_channels=8))
