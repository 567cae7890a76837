# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: one depthwise C3 for the whole network.
_base_ = 'retinanet_rla.py'

model = dict(backbone=dict(recurrent_conv='depthwise', tied=True))
