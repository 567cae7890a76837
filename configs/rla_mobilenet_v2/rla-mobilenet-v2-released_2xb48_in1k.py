# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: one depthwise C3 for the whole network.
_base_ = 'rla-mobilenet-v2_2xb48_in1k.py'

model = dict(backbone=dict(recurrent_conv='depthwise', tied=True))
