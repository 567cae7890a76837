# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: no RLA, every width + 12 channels.
_base_ = '../cifar/resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(extra_channels=12),
    head=dict(in_channels=256 + 12),
)
