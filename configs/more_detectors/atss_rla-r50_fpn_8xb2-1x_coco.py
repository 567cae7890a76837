# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = ['mmdet::atss/atss_r50_fpn_1x_coco.py', '../_base_/rla_detector.py']

model = dict(backbone={{_base_.rla_resnet50}})
