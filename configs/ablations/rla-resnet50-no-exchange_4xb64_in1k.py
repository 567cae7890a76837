# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 6 (c): blocks do not read the hidden state.
_base_ = '../rla_resnet/rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(exchange=False))
