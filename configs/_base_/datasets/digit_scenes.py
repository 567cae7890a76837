# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Types are scoped, so that this can be inherited as mmrla::...
# Digit scenes at their own size, and without flips (a mirrored 2 is no 2).
data_root = 'data/digit_scenes/'
metainfo = dict(
    classes=tuple('0123456789'),
    # mmrla.analysis.plots.class_colours: CocoDataset's first ones are two reds.
    palette=[
        *[(240, 15, 70), (30, 150, 230), (20, 150, 40), (255, 140, 0)],
        *[(150, 35, 220), (5, 215, 205), (225, 120, 185), (125, 85, 45)],
        *[(25, 15, 85), (215, 220, 5)],
    ],
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='mmdet.Resize', scale=(160, 160), keep_ratio=True),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(160, 160), keep_ratio=True),
    # Behind Resize: what is drawn is the ground truth of the image as it was.
    dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet.CocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='mmdet.CocoMetric',
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['bbox', 'segm'],
    # pycocotools' own: average recall for 1, 10 and 100 detections.
    proposal_nums=(1, 10, 100),
)
test_evaluator = val_evaluator
