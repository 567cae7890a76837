# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/rla-mobilenet-v2.py',
    '../_base_/datasets/imagenet_bs48.py',
    '../_base_/schedules/imagenet_bs96_400e.py',
    '../_base_/cls_runtime.py',
]
