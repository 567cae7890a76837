# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: C1 summarises the block's output.
_base_ = 'rla-resnet101_4xb64_in1k.py'

model = dict(backbone=dict(integration='v3'))
