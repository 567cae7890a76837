# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: integration v4, C1 summarises the block's output, added after C3.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(backbone=dict(integration='v4'))
