# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, one architecture a file.

``RLAResNet`` and its like exist twice: over mmdet's networks in MMEngine's root
registry, over mmpretrain's in mmpretrain's own. A name in a config therefore means
the network of the library that the config is for.
"""

from importlib.util import find_spec

from mmengine.registry import MODELS

from .densenet_bc import DenseNetBC
from .preact_resnet import PreActResNet, RLAPreActResNet
from .xception import RLAXception, Xception

__all__ = ['DenseNetBC', 'PreActResNet', 'RLAPreActResNet', 'RLAXception', 'Xception']

if find_spec('mmpretrain'):
    from . import mobilenet_v2_mmpretrain  # noqa: F401 - registers it
    from .resnet_mmpretrain import (
        CIFARResNet,
        RLACIFARResNet,
        RLAResNet_CIFAR,
        RLASEResNet,
        RLASEResNeXt,
    )

    __all__ += ['CIFARResNet', 'RLACIFARResNet', 'RLAResNet_CIFAR']
    __all__ += ['RLASEResNet', 'RLASEResNeXt']

if find_spec('mmdet'):
    from .mobilenet_v2_mmdet import RLAMobileNetV2
    from .resnet_mmdet import (
        RLARegNet,
        RLARes2Net,
        RLAResNeSt,
        RLAResNet,
        RLAResNetV1c,
        RLAResNetV1d,
        RLAResNeXt,
    )
elif find_spec('mmpretrain'):
    # The names mean mmpretrain's networks everywhere.
    from .mobilenet_v2_mmpretrain import RLAMobileNetV2
    from .resnet_mmpretrain import (
        RLARegNet,
        RLARes2Net,
        RLAResNeSt,
        RLAResNet,
        RLAResNetV1c,
        RLAResNetV1d,
        RLAResNeXt,
    )

    for _network in (
        RLAMobileNetV2,
        RLARegNet,
        RLARes2Net,
        RLAResNeSt,
        RLAResNet,
        RLAResNetV1c,
        RLAResNetV1d,
        RLAResNeXt,
    ):
        MODELS.register_module(module=_network)

if find_spec('mmdet') or find_spec('mmpretrain'):
    __all__ += ['RLAMobileNetV2', 'RLARegNet', 'RLARes2Net', 'RLAResNeSt']
    __all__ += ['RLAResNet', 'RLAResNetV1c', 'RLAResNetV1d', 'RLAResNeXt']
