# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'det_runtime.py'

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
# Processes normalise their own halves of a batch: the mean of their statistics is
# saved, and the same in all when they validate.
custom_hooks = [dict(type='SyncBuffersHook')]
log_processor = dict(window_size=10)
randomness = dict(seed=0)
