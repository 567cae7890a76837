# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = [
    '../_base_/models/mask-rcnn_r50-thin_fpn.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/schedules/digits_bs8_8e.py',
    '../_base_/digits_runtime.py',
]

model = dict(backbone=dict(rla_channels=8))
# One call for all tensors, of which there are many small ones.
optim_wrapper = dict(optimizer=dict(foreach=True), clip_grad=dict(foreach=True))
custom_hooks = [dict(type='SyncBuffersHook'), dict(type='FusedTrainingHook')]
