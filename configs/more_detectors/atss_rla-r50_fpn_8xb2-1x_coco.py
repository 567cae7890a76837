# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/rla.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='RLAResNet',
        depth=50,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            prefix='backbone.',
            checkpoint='checkpoints/rla-resnet50_4xb64_in1k.pth',
        ),
    ),
)
