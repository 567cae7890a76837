# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks with recurrent layer aggregation."""

from importlib.util import find_spec

from . import backbones
from .backbones import *  # noqa: F403
from .layers import CBAM, ECALayer, SELayer
from .necks import RLANeck
from .pretrained import WeightsMismatchError
from .rla import RLA, RLAUnit
from .wiring import WiringMismatchError

__all__ = [
    'CBAM',
    'ECALayer',
    'RLA',
    'RLANeck',
    'RLAUnit',
    'SELayer',
    'WeightsMismatchError',
    'WiringMismatchError',
    *backbones.__all__,
]

if find_spec('mmpretrain'):
    from .heads import RLALinearClsHead

    __all__ += ['RLALinearClsHead']
