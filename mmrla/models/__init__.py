# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks with recurrent layer aggregation."""

from importlib.util import find_spec

from mmengine.registry import MODELS

from .backbones.densenet_bc import DenseNetBC
from .backbones.preact_resnet import RLAPreActResNet
from .backbones.xception import RLAXception
from .layers import CBAM, ECALayer, SELayer
from .necks import RLANeck
from .pretrained import WeightsMismatchError
from .rla import RLA, RLAUnit
from .wiring import WiringMismatchError

__all__ = [
    'CBAM',
    'DenseNetBC',
    'ECALayer',
    'RLA',
    'RLANeck',
    'RLAPreActResNet',
    'RLAUnit',
    'RLAXception',
    'SELayer',
    'WeightsMismatchError',
    'WiringMismatchError',
]

if find_spec('mmpretrain'):
    from .backbones import over_mmpretrain
    from .backbones.over_mmpretrain import *  # noqa: F403
    from .heads import RLALinearClsHead

    __all__ += ['RLALinearClsHead', *over_mmpretrain.__all__]

if find_spec('mmdet'):
    from .backbones import over_mmdet
    from .backbones.over_mmdet import *  # noqa: F403 - mmdet's of a name in both

    __all__ += [name for name in over_mmdet.__all__ if name not in __all__]
elif find_spec('mmpretrain'):
    # Without mmdet the names mean mmpretrain's networks in every scope.
    for _name in over_mmpretrain.__all__:
        if _name.startswith('RLA'):
            MODELS.register_module(module=getattr(over_mmpretrain, _name))
