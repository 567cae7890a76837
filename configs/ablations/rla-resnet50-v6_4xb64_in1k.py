# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (j): integration v6, C1 summarises the block's identity, added after C3.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(integration='v6'))
