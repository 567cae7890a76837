# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond Table 11: a ConvGRU instead of C3; its last state goes into the
# classifier as it is.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(cell='convgru'),
    neck=dict(norm_cfg=None, act_cfg=None),
)
