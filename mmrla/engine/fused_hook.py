# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks that switch a run to the forms of mmrla.models.fused."""

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from torch.nn.parallel import DistributedDataParallel

from ..errors import UserError
from ..models.fused import switch_to_deploy, switch_to_fused_training
from ..models.fused.deploy import rla_backbones


@HOOKS.register_module()
class FusedTrainingHook(Hook):
    """Train RLA backbones in the fused form: same numbers, less memory and time.

    ``custom_hooks = [dict(type='FusedTrainingHook')]``. It
    needs eager float32 and no hooks on the fused modules, see
    :func:`mmrla.models.fused.switch_to_fused_training`. It was measured on CPUs only.

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


class DeployHook(Hook):
    """Test RLA backbones in the deployed form: faster, equal up to rounding.

    A copy of the runner's model is tested; the rest of the network is unchanged. If
    something looks inside a backbone, or the run compiles its model, the form is not
    used; the log says why.
    """

    #: After hooks that change weights for the test (EMA).
    priority = 'VERY_LOW'

    def before_test_epoch(self, runner: Any) -> None:
        """Switch the runner's model."""
        model = runner.model
        wrapper = model if isinstance(model, DistributedDataParallel) else None
        model = model if wrapper is None else wrapper.module
        if not rla_backbones(model):
            return
        reason = self._reason_against(runner, model)
        if reason:
            runner.logger.info(f'RLA backbones run as they are: {reason}')
            return
        runner.logger.info('RLA backbones run in their deployed form')
        deployed = switch_to_deploy(model, only_rla=True)
        if wrapper is None:
            runner.model = deployed
        else:
            wrapper.module = deployed

    @staticmethod
    def _reason_against(runner: Any, model: Any) -> Optional[str]:
        if runner.cfg.get('compile'):
            return 'the config has compile'
        if is_model_wrapper(model):
            return f'the model is in a {type(model).__name__}'
        for backbone in rla_backbones(model):
            for name, module in backbone.named_modules():
                if module._forward_hooks or module._forward_pre_hooks:
                    return f'a hook is on {name or "the backbone"}'
        return None
