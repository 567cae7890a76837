# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# RLA-ResNet-50 with the paper's refinements (Appendix B.2.2): ResNet-D (deep
# stem, stride in the 3x3 conv, average-pooled identity), label smoothing 0.1
# and mixup 0.2.
_base_ = 'rla-resnet50.py'

model = dict(
    backbone=dict(type='RLAResNetV1d'),
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            num_classes=1000,
        )
    ),
    train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)),
)
