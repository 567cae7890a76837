# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/faster-rcnn_r50-thin_fpn.py',
    '../_base_/datasets/hard_digit_boxes.py',
    '../_base_/schedules/digits_bs4_12e.py',
    '../_base_/digits_runtime.py',
]

# Digits of 16 to 48 pixels: anchors of 16, 32, 64 and 128.
model = dict(rpn_head=dict(anchor_generator=dict(scales=[4])))
