# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The paper's recipe (Appendix B.3): mmdet's 1x schedule for 8 images.
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/rla_detector.py']

model = dict(backbone={{_base_.rla_resnet50}})
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)
