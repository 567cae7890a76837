# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (b): C1 and C3 for each block.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(shared=False))
