# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Keeps the epoch that is best on the validation images, which is the one to
# test: best_accuracy_top1_epoch_*.pth.
_base_ = 'cls_runtime.py'

custom_imports = dict(imports=['mmrla', 'mmrla.datasets.cifar'])
default_hooks = dict(
    checkpoint=dict(save_best='accuracy/top1', rule='greater', max_keep_ckpts=3)
)
