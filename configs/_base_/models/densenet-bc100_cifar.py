# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# DenseNet-BC of 100 layers and growth rate 12 (Table 1).
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='DenseNetBC', depth=100, growth_rate=12, out_indices=(2,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=342),
)
