# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (i): integration v5, C1 summarises the block's identity.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(integration='v5'))
