# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
    '../_base_/rla_detector.py',
]

# mmdet's config is for caffe's ResNet: other images, stride in the 1x1 conv, norms
# that do not learn.
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        type='RLAResNet',
        style='pytorch',
        norm_cfg=dict(requires_grad=True),
        freeze_rla=True,
        init_cfg={{_base_.rla_resnet50.init_cfg}},
    ),
)
