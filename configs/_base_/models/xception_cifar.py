# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Thin Xception (Table 9).
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(type='RLAXception', rla_channels=0),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=512),
)
