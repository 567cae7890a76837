# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As the released code computes: C1 summarises the block's output. The
# checkpoint is the published resnet50_rla_2283.pth.tar, converted:
# python tools/model_converters/rlanet_to_mmrla.py resnet50_rla_2283.pth.tar \
#     checkpoints/rla-resnet50-released_4xb64_in1k.pth
_base_ = 'faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py'

model = dict(
    backbone=dict(
        integration='v3',
        init_cfg=dict(checkpoint='checkpoints/rla-resnet50-released_4xb64_in1k.pth'),
    )
)
