# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: blocks do not read the hidden state.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(backbone=dict(exchange=False))
