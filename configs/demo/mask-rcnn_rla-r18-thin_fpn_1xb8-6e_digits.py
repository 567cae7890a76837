# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# As cheap as can be: two CPU cores train it in minutes.
_base_ = [
    '../_base_/models/mask-rcnn_r50-thin_fpn.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/digits_bs8_6e.py',
    '../_base_/digits_runtime.py',
]

channels = 32
strides = [4, 8, 16]
model = dict(
    # Digits of at most 64 pixels do not need the last stage. From scratch, blocks that
    # are identities at first (zero_init_residual) learn later.
    backbone=dict(
        depth=18,
        rla_channels=8,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        zero_init_residual=False,
    ),
    # From scratch: norms in the FPN as well.
    neck=dict(
        in_channels=[16, 32, 64],
        out_channels=channels,
        num_outs=3,
        norm_cfg=dict(type='BN'),
    ),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(strides=strides),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=channels,
            featmap_strides=strides,
        ),
        mask_roi_extractor=dict(out_channels=channels, featmap_strides=strides),
        # One regressor and one mask for all digits: each learns from all of them.
        bbox_head=dict(in_channels=channels, reg_class_agnostic=True),
        # The transposed conv took longer than the rest of the head; masks learn last.
        mask_head=dict(
            in_channels=channels,
            upsample_cfg=dict(type='bilinear', scale_factor=2),
            class_agnostic=True,
            loss_mask=dict(loss_weight=2.0),
        ),
    ),
)
# One call for all tensors, of which there are many small ones.
optim_wrapper = dict(optimizer=dict(foreach=True), clip_grad=dict(foreach=True))
custom_hooks = [dict(type='SyncBuffersHook'), dict(type='FusedTrainingHook')]
