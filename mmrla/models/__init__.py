# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks with recurrent layer aggregation."""

from .backbones import RLAMobileNetV2, RLAResNet, plug_attention
from .layers import CBAM, ECALayer, SELayer
from .necks import RLANeck
from .rla import RLAUnit
from .stage import RLABlock, RLAStage

__all__ = [
    "CBAM",
    "ECALayer",
    "RLABlock",
    "RLAMobileNetV2",
    "RLANeck",
    "RLAResNet",
    "RLAStage",
    "RLAUnit",
    "SELayer",
    "plug_attention",
]
