# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'cbam-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(depth=152))
