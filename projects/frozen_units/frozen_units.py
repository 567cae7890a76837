# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-MobileNetV2 with units frozen and BN_t in eval mode independently."""

from typing import Any

from mmengine.registry import MODELS

from mmrla.models.backbones.mobilenet_v2_mmpretrain import RLAMobileNetV2


@MODELS.register_module()
class ChoosingRLAMobileNetV2(RLAMobileNetV2):
    """``freeze_rla=True`` taken apart.

    Args:
        freeze_units (bool): Whether ``frozen_stages`` holds for the units.
        eval_units (bool): Whether ``norm_eval`` holds for BN_t and the reads' norms.
        **kwargs: Arguments of RLAMobileNetV2.
    """

    def __init__(self, freeze_units: bool, eval_units: bool, **kwargs: Any) -> None:
        super().__init__(freeze_rla=freeze_units, **kwargs)
        self.eval_units = eval_units

    def train(self, mode: bool = True) -> 'ChoosingRLAMobileNetV2':
        """Set the mode, with norms of the units as asked for."""
        super().train(mode)
        self.rla.train(mode and not self.eval_units)
        return self
