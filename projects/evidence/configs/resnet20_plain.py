# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# A pretrained ResNet-20, fine-tuned on JPEG copies of CIFAR-10: a fixed fifth of the
# training images, one-cycle.
_base_ = [
    '../../../configs/_base_/models/cifar-resnet20.py',
    '../../../configs/_base_/datasets/cifar10_bs128.py',
    '../../../configs/_base_/cls_runtime.py',
]

custom_imports = dict(imports=['mmrla', 'mmrla.datasets.cifar'])
# Those of the pretrained weights.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
weights = dict(
    type='Pretrained', prefix='module.', checkpoint='checkpoints/resnet20.pth'
)
model = dict(
    backbone=dict(init_cfg=weights),
    head=dict(type='RLALinearClsHead', rla_channels=0, init_cfg=weights),
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(num_splits=5, test_mode=True),
)
val_dataloader = None
val_cfg = None
val_evaluator = None
test_dataloader = dict(num_workers=0, persistent_workers=False)
test_evaluator = dict(type='Accuracy', topk=(1,))
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=4)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
)
param_scheduler = dict(
    type='OneCycleLR',
    eta_max=0.05,
    total_steps=4,
    by_epoch=True,
    convert_to_iter_based=True,
)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
