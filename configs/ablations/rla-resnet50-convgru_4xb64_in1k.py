# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond Table 6: a ConvGRU instead of C3, which the released code has; its
# last state goes into the classifier as it is.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(
    # Branches that start at zero leave h at zero, where each norm on its way
    # multiplies gradients by its 1 / sqrt(eps): they would overflow at once.
    backbone=dict(cell='convgru', zero_init_residual=False),
    neck=dict(norm_cfg=None, act_cfg=None),
)
