# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Eq. 10: layers share the 1x1 convs of the same ordinal.
_base_ = 'densenet-bc100_1xb128_cifar100.py'

model = dict(backbone=dict(sharing='ordinal'))
