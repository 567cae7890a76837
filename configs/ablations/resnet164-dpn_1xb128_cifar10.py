# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Table 11: the DenseNet variant, a dual path network (no RLA).
_base_ = '../cifar/resnet164_1xb128_cifar10.py'

model = dict(
    backbone=dict(dense_channels=12),
    # Stage 3 starts with 2 x 12 dense channels; each of 18 blocks appends 12.
    head=dict(in_channels=256 + 20 * 12),
)
