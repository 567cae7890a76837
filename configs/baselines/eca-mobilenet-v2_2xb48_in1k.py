# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = '../rla_mobilenet_v2/rla-eca-mobilenet-v2_2xb48_in1k.py'

model = dict(backbone=dict(rla_channels=0))
