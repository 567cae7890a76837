# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    '../_base_/rla_detector.py',
]

model = dict(backbone={{_base_.rla_resnet50}})
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)
