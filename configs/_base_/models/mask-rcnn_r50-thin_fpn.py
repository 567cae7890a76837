# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Everything is thin, so that two CPU cores train it in minutes. The backbone is a
# plain ResNet-50; rla_channels makes it recurrent.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

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
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=channels, num_outs=4),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        # Digits of 36 to 64 pixels: anchors of 24, 48, 96 and 192.
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=channels, roi_layer=dict(sampling_ratio=2)
        ),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=10),
        mask_roi_extractor=dict(
            out_channels=channels, roi_layer=dict(sampling_ratio=1)
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=10,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(max_per_img=30),
    ),
)
