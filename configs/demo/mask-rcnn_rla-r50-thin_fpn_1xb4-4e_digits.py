# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As much as two CPU cores learn in five minutes: few proposals and small batches.
_base_ = [
    '../_base_/models/mask-rcnn_r50-thin_fpn.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/digits_bs8_8e.py',
    '../_base_/digits_runtime.py',
]

model = dict(
    backbone=dict(rla_channels=8),
    roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1))),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=100, max_per_img=50),
        rcnn=dict(sampler=dict(num=16)),
    ),
)
train_dataloader = dict(batch_size=4)
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs)
# One call for all tensors, of which there are many small ones.
optim_wrapper = dict(optimizer=dict(foreach=True), clip_grad=dict(foreach=True))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        end=max_epochs,
        eta_min_ratio=0.01,
        convert_to_iter_based=True,
    ),
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(logger=dict(interval=50))
custom_hooks = [dict(type='SyncBuffersHook'), dict(type='FusedTrainingHook')]
