# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# The thin Mask R-CNN without its masks, for data with boxes alone.
_base_ = 'mask-rcnn_r50-thin_fpn.py'

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
)
