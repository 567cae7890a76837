# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The thin ResNet-20 of He et al. 2015 (Section 4.2), post-activated, option A.
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='RLACIFARResNet', depth=20, rla_channels=0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
