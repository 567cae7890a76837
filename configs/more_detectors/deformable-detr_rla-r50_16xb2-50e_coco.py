# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    '../_base_/rla_detector.py',
]

model = dict(backbone={{_base_.rla_resnet50}})
