# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (d): a ConvLSTM instead of C3; its last state goes into
# the classifier as it is.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(
    backbone=dict(cell='convlstm'),
    neck=dict(norm_cfg=None, act_cfg=None),
)
