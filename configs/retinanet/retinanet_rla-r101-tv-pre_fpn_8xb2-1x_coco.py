# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# mmdet's config and one word: starts from torchvision's weights, as mmdet does.
_base_ = ['mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '../_base_/rla.py']

model = dict(backbone=dict(type='RLAResNet'))
