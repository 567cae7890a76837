# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 15: C1 and C3 for each block.
_base_ = '../rla_resnet/rla-resnet101_4xb64_in1k.py'

model = dict(backbone=dict(shared=False))
