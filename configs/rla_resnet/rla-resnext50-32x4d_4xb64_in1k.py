# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(type='RLAResNeXt', groups=32, width_per_group=4))
