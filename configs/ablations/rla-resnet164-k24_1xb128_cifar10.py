# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 13: 24 channels of the hidden state.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(rla_channels=24),
    neck=dict(rla_channels=24),
    head=dict(rla_channels=24),
)
