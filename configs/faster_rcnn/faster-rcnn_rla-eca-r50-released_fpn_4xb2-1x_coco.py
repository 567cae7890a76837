# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes, from its published weights (see README.md).
_base_ = 'faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        integration='v3',
        plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')],
        init_cfg=dict(checkpoint='checkpoints/rla-ecanet50-released_4xb64_in1k.pth'),
    )
)
