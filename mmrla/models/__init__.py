# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks with recurrent layer aggregation."""

from .backbones import RLAResNet
from .layers import CBAM, ECALayer, SELayer
from .necks import RLANeck
from .rla import RLAUnit
from .stage import RLABlock, RLAStage

__all__ = [
    'CBAM',
    'ECALayer',
    'RLABlock',
    'RLANeck',
    'RLAResNet',
    'RLAStage',
    'RLAUnit',
    'SELayer',
]
