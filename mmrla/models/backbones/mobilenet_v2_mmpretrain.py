# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmpretrain's MobileNetV2."""

from mmpretrain.models.backbones import MobileNetV2
from mmpretrain.registry import MODELS

from .mobilenet_v2 import RLAOverMobileNetV2


@MODELS.register_module()
class RLAMobileNetV2(RLAOverMobileNetV2, MobileNetV2):
    """mmpretrain's MobileNetV2 with RLA, with mmpretrain's arguments and defaults."""
