# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmdet's MobileNetV2."""

from mmdet.models.backbones import MobileNetV2
from mmengine.registry import MODELS

from .mobilenet_v2 import RLAOverMobileNetV2


@MODELS.register_module()
class RLAMobileNetV2(RLAOverMobileNetV2, MobileNetV2):
    """mmdet's MobileNetV2 with RLA, with mmdet's arguments and defaults."""
