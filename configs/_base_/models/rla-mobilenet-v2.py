# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
model = dict(
    # Also where this is inherited as mmrla::...
    _scope_='mmpretrain',
    type='ImageClassifier',
    backbone=dict(
        type='RLAMobileNetV2',
        widen_factor=1.0,
        rla_channels=32,
        integration='v1',
        recurrent_conv='separable',
        out_indices=(4,),
        return_hidden=True,
        norm_eval=False,
    ),
    # The last 1x1 conv reads the last hidden state too.
    neck=dict(
        type='RLANeck',
        rla_channels=32,
        in_channels=320,
        out_channels=1280,
        act_cfg=dict(type='ReLU6'),
    ),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1280,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
)
