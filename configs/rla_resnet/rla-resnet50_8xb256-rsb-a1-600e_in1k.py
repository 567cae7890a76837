# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Beyond the paper: the strong recipe A1 of "ResNet strikes back", with the
# settings that mmpretrain has for ResNet-50.
_base_ = 'rla-resnet50_8xb256-rsb-a2-300e_in1k.py'

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
            use_sigmoid=True,
        )
    ),
    train_cfg=dict(
        augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]
    ),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.01))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.0001,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        T_max=595,
        eta_min=1.0e-6,
        by_epoch=True,
        begin=5,
        end=600,
    ),
]
train_cfg = dict(max_epochs=600)
