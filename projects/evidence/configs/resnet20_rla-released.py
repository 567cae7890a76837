# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: C1 reads the block's output.
_base_ = 'resnet20_rla.py'

model = dict(backbone=dict(integration='v3'))
