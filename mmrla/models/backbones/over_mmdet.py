# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmdet's networks, for mmdet configs."""

from typing import Any

from mmdet.models.backbones import (
    MobileNetV2,
    RegNet,
    Res2Net,
    ResNeSt,
    ResNet,
    ResNetV1d,
    ResNeXt,
)
from mmengine.registry import MODELS

from .mobilenet_v2 import RLAOverMobileNetV2
from .resnet import RLAOverRes2Net, RLAOverResNeSt, RLAOverResNet, RLAOverSmallStem

__all__ = [
    'RLAMobileNetV2',
    'RLARegNet',
    'RLARes2Net',
    'RLAResNeSt',
    'RLAResNet',
    'RLAResNetV1c',
    'RLAResNetV1d',
    'RLAResNeXt',
]


@MODELS.register_module()
class RLAResNet(RLAOverResNet, ResNet):
    """mmdet's ResNet with recurrent layer aggregation (Section 3.3).

    Takes the arguments of mmdet's ResNet, with mmdet's defaults, and those of
    :class:`mmrla.models.RLA`. The default is the paper's wiring; the released code and
    weights need ``integration='v3'``.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAResNet
        >>> model = RLAResNet(depth=50).eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 256, 16, 24)
        (1, 512, 8, 12)
        (1, 1024, 4, 6)
        (1, 2048, 2, 3)
    """


@MODELS.register_module()
class RLAResNetV1c(RLAResNet):
    """:class:`RLAResNet` with a deep stem of three 3x3 convs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, deep_stem=True, **kwargs)


@MODELS.register_module()
class RLAResNetV1d(RLAOverResNet, ResNetV1d):
    """mmdet's ResNet-D with RLA: deep stem, average-pooled identity."""


@MODELS.register_module()
class RLAResNeXt(RLAOverResNet, ResNeXt):
    """mmdet's ResNeXt with RLA."""


@MODELS.register_module()
class RLARegNet(RLAOverSmallStem, RegNet):
    """mmdet's RegNet with RLA."""


@MODELS.register_module()
class RLARes2Net(RLAOverRes2Net, Res2Net):
    """mmdet's Res2Net with RLA."""


@MODELS.register_module()
class RLAResNeSt(RLAOverResNeSt, ResNeSt):
    """mmdet's ResNeSt with RLA."""


@MODELS.register_module()
class RLAMobileNetV2(RLAOverMobileNetV2, MobileNetV2):
    """mmdet's MobileNetV2 with RLA."""
