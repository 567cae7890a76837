# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks with recurrent layer aggregation."""

from .backbones import (
    DenseNetBC,
    RLAMobileNetV2,
    RLAPreActResNet,
    RLAResNet,
    RLAXception,
    plug_attention,
)
from .layers import CBAM, ECALayer, SELayer
from .necks import RLANeck
from .rla import RLAUnit
from .stage import RLABlock, RLAStage

__all__ = [
    'CBAM',
    'DenseNetBC',
    'ECALayer',
    'RLABlock',
    'RLAMobileNetV2',
    'RLANeck',
    'RLAPreActResNet',
    'RLAResNet',
    'RLAStage',
    'RLAUnit',
    'RLAXception',
    'SELayer',
    'plug_attention',
]
