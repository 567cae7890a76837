# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# CIFAR-10 (Section 4.1): pad by 4, random crop, flip. Of the 50,000 training
# images 45,000 train and 5,000 choose the epoch; a fixed seed draws them.
# data_root has the published python files or folders of images (docs/data.md).
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

train_set = dict(
    type='CIFAR10Folders', data_root='data/cifar10', split='train', download=False
)
train_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        _scope_='mmpretrain',
        type='KFoldDataset',
        num_splits=10,
        fold=0,
        seed=0,
        dataset=dict(pipeline={{_base_.train_pipeline}}, **train_set),
    ),
)
val_dataloader = dict(
    batch_size=128,
    dataset=dict(
        _delete_=True,
        _scope_='mmpretrain',
        type='KFoldDataset',
        num_splits=10,
        fold=0,
        seed=0,
        test_mode=True,
        dataset=dict(pipeline={{_base_.test_pipeline}}, **train_set),
    ),
)
test_dataloader = dict(
    batch_size=128,
    dataset=dict(type='CIFAR10Folders', data_root='data/cifar10', download=False),
)
