# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (a): no RLA, every width + 32 channels.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(
    backbone=dict(rla_channels=0, return_hidden=False, extra_channels=32),
    neck=dict(rla_channels=0),
    head=dict(in_channels=2048 + 32, rla_channels=0),
)
