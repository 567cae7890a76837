# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 13: 16 channels of the hidden state.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(rla_channels=16),
    neck=dict(rla_channels=16),
    head=dict(rla_channels=16),
)
