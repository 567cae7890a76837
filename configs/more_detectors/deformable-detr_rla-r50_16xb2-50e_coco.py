# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    '../_base_/rla.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='RLAResNet',
        depth=50,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        norm_cfg=dict(type='BN', requires_grad=False),
        init_cfg=dict(
            type='Pretrained',
            prefix='backbone.',
            checkpoint='checkpoints/rla-resnet50_4xb64_in1k.pth',
        ),
    ),
)
