# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# COCO recipe of the paper (Appendix B.3): MMDetection's 1x schedule, that is
# SGD with momentum 0.9 and weight decay 1e-4, x0.1 after epochs 8 and 11 of
# 12, linear warm-up over 500 iterations, with the learning rate for 8 images:
# 4 GPUs, 2 images each, as mmdet's COCO base files have them.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001)
)
auto_scale_lr = dict(base_batch_size=8)
