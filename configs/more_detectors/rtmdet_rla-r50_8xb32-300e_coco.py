# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = ['mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py', '../_base_/rla_detector.py']

model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _delete_=True,
        type='RLAResNet',
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        freeze_rla=True,
        init_cfg={{_base_.rla_resnet50.init_cfg}},
    ),
    neck=dict(in_channels=[512, 1024, 2048], num_csp_blocks=1),
)

# mmdet has 16 here, from which --auto-scale-lr would multiply the rate.
auto_scale_lr = dict(base_batch_size=256)
