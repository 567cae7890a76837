# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As cheap as can be: two CPU cores train it in minutes.
_base_ = [
    '../_base_/models/mask-rcnn_r50-thin_fpn.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/digits_bs8_7e.py',
    '../_base_/digits_runtime.py',
]

model = dict(
    backbone=dict(depth=18, rla_channels=8),
    # From scratch: norms in the FPN as well.
    neck=dict(in_channels=[16, 32, 64, 128], norm_cfg=dict(type='BN')),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1)),
        # One regressor and one mask for all digits: each learns from all of them.
        bbox_head=dict(reg_class_agnostic=True),
        mask_head=dict(class_agnostic=True),
    ),
)
# One call for all tensors, of which there are many small ones.
optim_wrapper = dict(optimizer=dict(foreach=True), clip_grad=dict(foreach=True))
custom_hooks = [dict(type='SyncBuffersHook'), dict(type='FusedTrainingHook')]
