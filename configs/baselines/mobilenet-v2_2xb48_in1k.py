# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    'mmpretrain::_base_/models/mobilenet_v2_1x.py',
    '../_base_/datasets/imagenet_bs48.py',
    '../_base_/schedules/imagenet_bs96_400e.py',
    '../_base_/cls_runtime.py',
]
