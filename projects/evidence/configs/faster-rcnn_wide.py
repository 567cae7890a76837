# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The plain network with as many parameters more as RLA adds, in FPN and heads.
_base_ = 'faster-rcnn_plain.py'

model = dict(
    neck=dict(out_channels=68),
    rpn_head=dict(in_channels=68),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=68), bbox_head=dict(in_channels=68)
    ),
)
