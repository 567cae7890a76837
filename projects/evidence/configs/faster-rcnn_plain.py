# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'bccd.py']

model = dict(
    data_preprocessor=dict(mean=[128.0] * 3, std=[128.0] * 3),
    backbone={{_base_.mobilenet_v2}},
    neck=dict(in_channels=[24, 32, 96, 320], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=3),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=300),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300)),
)
