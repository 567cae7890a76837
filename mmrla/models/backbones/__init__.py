# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, one architecture a file."""

from .attention_baselines import (
    AttentionMobileNetV2,
    AttentionResNet,
    AttentionResNeXt,
    plug_attention,
)
from .densenet_bc import DenseNetBC
from .non_local_resnet import NonLocalResNet
from .rla_mobilenet_v2 import RLAMobileNetV2
from .rla_preact_resnet import RLAPreActResNet
from .rla_resnet import RLAResNet
from .rla_xception import RLAXception

__all__ = [
    'AttentionMobileNetV2',
    'AttentionResNeXt',
    'AttentionResNet',
    'DenseNetBC',
    'NonLocalResNet',
    'plug_attention',
    'RLAMobileNetV2',
    'RLAPreActResNet',
    'RLAResNet',
    'RLAXception',
]
