# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Not in the paper: the post-activated ResNet, of which trained weights are public.
_base_ = [
    '../_base_/models/rla-cifar-resnet20.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar_bs128_300e.py',
    '../_base_/cifar_runtime.py',
]
