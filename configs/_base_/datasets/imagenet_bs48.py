# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py'

train_dataloader = dict(batch_size=48)
