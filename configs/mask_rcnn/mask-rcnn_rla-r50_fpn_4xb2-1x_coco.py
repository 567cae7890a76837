# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

model = dict(backbone={{_base_.rla_resnet50}})
