# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The fused training form by one line of a config."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS

from ..errors import UserError
from ..models.fused import switch_to_fused_training


@HOOKS.register_module()
class FusedTrainingHook(Hook):
    """Train RLA backbones in the fused form: same numbers, less memory and time.

    ``custom_hooks = [dict(type='FusedTrainingHook')]``. See
    :func:`mmrla.models.fused.switch_to_fused_training` for what it asks: eager
    float32, no hooks on the modules that it joins. It was measured on CPUs only.

    Raises:
        UserError: With mixed precision, or if no backbone has a fused form.
    """

    def before_train(self, runner: Any) -> None:
        """Switch the runner's model."""
        if isinstance(runner.optim_wrapper, AmpOptimWrapper):
            raise UserError(
                'FusedTrainingHook needs float32, got AmpOptimWrapper; leave out the '
                'hook or --amp'
            )
        if not switch_to_fused_training(runner.model):
            raise UserError(
                'FusedTrainingHook: no backbone of the model has a fused form, which '
                'RLA-ResNets and RLA-MobileNetV2 have; leave out the hook'
            )
