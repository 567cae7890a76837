# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Everything is thin, so that two CPU cores train it in minutes. The backbone is a
# plain ResNet-50; rla_channels makes it recurrent.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

channels = 48
model = dict(
    backbone=dict(
        type='RLAResNet',
        rla_channels=0,
        base_channels=16,
        # From scratch: nothing to freeze, batch statistics to learn.
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
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
