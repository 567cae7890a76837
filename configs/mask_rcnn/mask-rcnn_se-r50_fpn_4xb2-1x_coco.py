# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_r50_fpn_4xb2-1x_coco.py'

# The checkpoint is what configs/baselines/se-resnet50_4xb64_in1k.py trains.
# From scratch: --cfg-options model.backbone.init_cfg=None
#     model.backbone.frozen_stages=-1 model.backbone.norm_eval=False
model = dict(
    backbone=dict(
        type='AttentionResNet',
        attention=dict(type='SELayer'),
        init_cfg=dict(
            prefix='backbone.', checkpoint='checkpoints/se-resnet50_4xb64_in1k.pth'
        ),
    )
)
