# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x_bs8.py',
    '../_base_/det_runtime.py',
]

# The checkpoint is what configs/rla_resnet/rla-resnet50_4xb64_in1k.py trains.
# From scratch: --cfg-options model.backbone.init_cfg=None
#     model.backbone.frozen_stages=-1 model.backbone.norm_eval=False
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
    )
)
