# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Pre-activated ResNet-164 (Table 8).
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='RLAPreActResNet', depth=164, rla_channels=0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=256),
)
