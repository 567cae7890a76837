# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (e): h_t = tanh(BN_t(C3(h_{t-1} + C1(y_t)))); its last
# state goes into the classifier as it is.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(
    backbone=dict(cell='post-act'),
    neck=dict(norm_cfg=None, act_cfg=None),
)
