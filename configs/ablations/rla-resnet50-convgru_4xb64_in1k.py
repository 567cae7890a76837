# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond Table 6: a ConvGRU instead of C3, which the released code has; its
# last state goes into the classifier as it is.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(
    backbone=dict(cell='convgru'),
    neck=dict(norm_cfg=None, act_cfg=None),
)
