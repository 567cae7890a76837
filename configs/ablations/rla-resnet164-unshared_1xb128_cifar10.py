# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: C1 and C3 for each block.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(backbone=dict(shared=False))
