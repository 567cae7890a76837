# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Thin, as mask-rcnn_r50-thin_fpn.py.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

channels = 48
model = dict(
    backbone=dict(
        _delete_=True,
        type='RLAResNet',
        depth=50,
        rla_channels=0,
        base_channels=16,
        stem_channels=16,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_eval=False,
    ),
    neck=dict(
        in_channels=[64, 128, 256, 512],
        out_channels=channels,
        start_level=0,
        num_outs=4,
    ),
    bbox_head=dict(
        num_classes=10,
        in_channels=channels,
        stacked_convs=2,
        feat_channels=channels,
        anchor_generator=dict(strides=[4, 8, 16, 32]),
    ),
    test_cfg=dict(nms_pre=200, max_per_img=30),
)
