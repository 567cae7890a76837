# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='RLAResNet',
        depth=50,
        rla_channels=32,
        integration='v1',
        out_indices=(3,),
        return_hidden=True,
        norm_eval=False,
    ),
    neck=dict(type='RLANeck', rla_channels=32),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048 + 32,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
