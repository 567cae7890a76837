# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-100, as CIFAR-10 in cifar10_bs128.py.
_base_ = 'cifar10_bs128.py'

data_preprocessor = dict(
    num_classes=100, mean=[129.304, 124.070, 112.434], std=[68.170, 65.392, 70.418]
)
cifar100 = dict(type='CIFAR100Folders', data_root='data/cifar100')
train_dataloader = dict(dataset=dict(dataset=cifar100))
val_dataloader = dict(dataset=dict(dataset=cifar100))
test_dataloader = dict(dataset=cifar100)
