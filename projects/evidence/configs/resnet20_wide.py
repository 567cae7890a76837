# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The plain network with 8 channels more in each stage, which nothing reads at first.
_base_ = 'resnet20_plain.py'

weights = dict(checkpoint='checkpoints/resnet20_wide.pth')
model = dict(
    backbone=dict(stem_channels=24, extra_channels=8, init_cfg=weights),
    head=dict(in_channels=72, init_cfg=weights),
)
