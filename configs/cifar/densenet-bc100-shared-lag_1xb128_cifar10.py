# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Eq. 9: layers share the 1x1 convs of the same lag.
_base_ = 'densenet-bc100_1xb128_cifar10.py'

model = dict(backbone=dict(sharing='lag'))
