# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# One non-local block, before the last block of stage c4.
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(backbone=dict(type='NonLocalResNet'))
