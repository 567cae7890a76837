# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: h_t = tanh(BN_t(C3(h_{t-1} + C1(y_t)))); its last state goes into the
# classifier as it is.
_base_ = '../cifar/rla-resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(cell='post-act'),
    neck=dict(norm_cfg=None, act_cfg=None),
)
