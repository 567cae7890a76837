# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The plain network with as many parameters more as RLA adds, in FPN and head.
_base_ = 'retinanet_plain.py'

model = dict(neck=dict(out_channels=73), bbox_head=dict(in_channels=73))
