# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, one architecture a file."""

from .attention_baselines import (
    AttentionMobileNetV2,
    AttentionResNet,
    AttentionResNeXt,
    plug_attention,
)
from .rla_mobilenet_v2 import RLAMobileNetV2
from .rla_resnet import RLAResNet

__all__ = [
    "AttentionMobileNetV2",
    "AttentionResNeXt",
    "AttentionResNet",
    "plug_attention",
    "RLAMobileNetV2",
    "RLAResNet",
]
