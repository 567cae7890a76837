# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# ImageNet recipe of the paper with training tricks (Appendix B.2.2): SGD 0.1
# with momentum 0.9 and weight decay 1e-4, 5 epochs of warm-up, cosine to epoch
# 200, 256 images: 4 GPUs, 64 images each. Label smoothing, mixup and ResNet-D
# are settings of the model: ../models/rla-resnet50d_tricks.py.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_200e_coslr_warmup.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0001)
)
train_cfg = dict(max_epochs=200)
auto_scale_lr = dict(base_batch_size=256)
