# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Not in the paper: the read of a basic block is 3x3, as its first conv is.
_base_ = 'rla-resnet50_4xb64_in1k.py'

model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
