# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (f): integration v2, C1 summarises the residual, added after C3.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(integration='v2'))
