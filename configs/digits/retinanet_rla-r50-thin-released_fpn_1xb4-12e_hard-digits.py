# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: C1 summarises the block's output.
_base_ = 'retinanet_r50-thin_fpn_1xb4-12e_hard-digits.py'

model = dict(backbone=dict(rla_channels=8, integration='v3'))
