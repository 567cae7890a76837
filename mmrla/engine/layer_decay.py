# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Learning rates that decay from the heads to the stem, in detectors too."""

from typing import Any, List

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

__all__ = ['LayerDecayConstructor']


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, with layer-wise decay of the learning rate.

    ``optim_wrapper = dict(constructor='mmrla.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8))``; MMEngine's other options of
    ``paramwise_cfg`` still apply. A parameter of a backbone with
    ``get_layer_depth`` (RLA's, and many of mmpretrain's) learns with ``lr * rate **
    (layers - 1 - depth)``, where each block is a layer; everything else with ``lr``.
    mmdet's constructor knows ConvNeXt and Swin only, mmpretrain's classifiers only.

    Raises:
        ValueError: There is no rate, or no backbone with ``get_layer_depth``.
    """

    def add_params(
        self, params: List[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add one group per parameter, as in MMEngine's constructor."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not prefix:
            self._scale(params, module)

    def _scale(self, params: List[dict], model: nn.Module) -> None:
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(
                f'paramwise_cfg.layer_decay_rate={rate!r} is not a number in (0, 1]'
            )
        backbones = {
            f'{name}.': module
            for name, module in model.named_modules()
            if name and hasattr(module, 'get_layer_depth')
        }
        if not backbones:
            kind = type(getattr(model, 'backbone', model)).__name__
            raise ValueError(
                f'LayerDecayConstructor: {kind} has no get_layer_depth, which RLA '
                'backbones and many of mmpretrain have'
            )
        names = {id(tensor): name for name, tensor in model.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            for prefix, backbone in backbones.items():
                if name.startswith(prefix):
                    depth, layers = backbone.get_layer_depth(name, prefix)
                    scale = rate ** (layers - 1 - depth)
                    group['lr'] = group.get('lr', self.base_lr) * scale
                    group['lr_scale'] = scale
