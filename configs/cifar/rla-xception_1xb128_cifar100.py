# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/rla-xception_cifar.py',
    '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/cifar_bs128_300e.py',
    '../_base_/cifar_runtime.py',
]

model = dict(head=dict(num_classes=100))
