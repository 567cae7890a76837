# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The same first weights of neck and heads for all networks of a seed."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModule, is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SameStartHook(Hook):
    """Draw the weights of all but the backbone from the seed alone.

    Backbones draw different numbers of weights, so that heads of one seed would
    start differently. For runs that do not load a whole network.
    """

    def before_train(self, runner: Any) -> None:
        """Draw them anew, unless a run goes on."""
        if runner.iter or runner.cfg.get('load_from'):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(runner.seed)
            for name, child in model.named_children():
                if name == 'backbone' or not isinstance(child, BaseModule):
                    continue
                for module in child.modules():
                    if isinstance(module, BaseModule):
                        module.is_init = False
                child.init_weights()
