# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Photographs of blood cells: 205 to train, 87 for the recipe, 72 to test, each once.
_base_ = 'mmdet::_base_/default_runtime.py'

custom_imports = dict(
    imports=['mmrla', 'projects.evidence.same_start'], allow_failed_imports=False
)
data_root = 'data/bccd/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=2,
    # Without workers each step's flips are drawn from the seed and the step.
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/'),
        pipeline=train_pipeline,
    ),
)
_loader = dict(
    train_dataloader,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(train_dataloader['dataset'], test_mode=True, pipeline=test_pipeline),
)
val_dataloader = dict(
    _loader,
    dataset=dict(_loader['dataset'], ann_file='annotations/instances_val.json'),
)
test_dataloader = dict(
    _loader,
    dataset=dict(_loader['dataset'], ann_file='annotations/instances_test.json'),
)
val_evaluator = dict(
    type='CocoMetric',
    classwise=True,
    ann_file=data_root + 'annotations/instances_val.json',
)
test_evaluator = dict(
    val_evaluator, ann_file=data_root + 'annotations/instances_test.json'
)
# The last weights are tested. val is for the recipe: --cfg-options
# train_cfg.val_interval=1.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        T_max=4,
        end=4,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [dict(type='SameStartHook')]
randomness = dict(seed=0)

# The backbone of the detectors: stem and first stage frozen (as the paper's), norms
# in eval mode.
mobilenet_v2 = dict(
    _delete_=True,
    type='mmpretrain.RLAMobileNetV2',
    rla_channels=0,
    out_indices=(1, 2, 4, 6),
    frozen_stages=2,
    norm_eval=True,
    init_cfg=dict(
        type='Pretrained',
        prefix='backbone.',
        checkpoint='checkpoints/mobilenet_v2.pth',
    ),
)
