# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The paper's attention baselines: mmpretrain's networks with a plugin.

mmdet's ResNet takes the same modules through its own ``plugins`` argument.
"""

from collections import OrderedDict
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..layers import build_attention
from .base import AttentionCfg, attention_of_stage


def plug_attention(backbone: nn.Module, attention: AttentionCfg) -> nn.Module:
    """Insert an attention module after the last norm of each residual block.

    Args:
        backbone: A ResNet, ResNeXt or MobileNetV2 of mmpretrain; changed in
            place.
        attention: Config of the module, or a list of one for each stage.

    Returns:
        The backbone.

    Raises:
        ValueError: If the backbone has no block that can take the module.
    """
    stages = [
        stage
        for stage in backbone.children()
        if isinstance(stage, nn.Sequential)
        and all(
            hasattr(block, 'out_channels') or hasattr(block, 'use_res_connect')
            for block in stage
        )
    ]
    if not stages:
        raise ValueError(
            f'{type(backbone).__name__} is not a ResNet, ResNeXt or MobileNetV2 of '
            'mmpretrain'
        )
    for i, stage in enumerate(stages):
        for block in stage:
            cfg = attention_of_stage(attention, i, len(stages))
            if cfg is None:
                continue
            if hasattr(block, 'use_res_connect'):  # InvertedResidual
                channels = block.conv[-1].out_channels
                block.conv.add_module('attention', build_attention(cfg, channels))
            else:
                # Stochastic depth is the one module between norm and addition.
                block.drop_path = nn.Sequential(
                    OrderedDict(
                        attention=build_attention(cfg, block.out_channels),
                        drop_path=block.drop_path,
                    )
                )
    return backbone


def _build(name: str, attention: AttentionCfg, **kwargs: Any) -> nn.Module:
    return plug_attention(
        MODELS.build(dict(type=f'mmpretrain.{name}', **kwargs)), attention
    )


@MODELS.register_module()
def AttentionResNet(attention: AttentionCfg = None, **kwargs: Any) -> nn.Module:
    """mmpretrain's ResNet with ``attention`` in each block.

    Args:
        attention: Config such as ``dict(type='SELayer')``, or one for each stage.
        **kwargs: Arguments of ``mmpretrain.ResNet``.
    """
    return _build('ResNet', attention, **kwargs)


@MODELS.register_module()
def AttentionResNeXt(attention: AttentionCfg = None, **kwargs: Any) -> nn.Module:
    """mmpretrain's ResNeXt with ``attention`` in each block.

    Args:
        attention: Config such as ``dict(type='SELayer')``, or one for each stage.
        **kwargs: Arguments of ``mmpretrain.ResNeXt``.
    """
    return _build('ResNeXt', attention, **kwargs)


@MODELS.register_module()
def AttentionMobileNetV2(attention: AttentionCfg = None, **kwargs: Any) -> nn.Module:
    """mmpretrain's MobileNetV2 with ``attention`` in each block.

    Args:
        attention: Config such as ``dict(type='SELayer')``, or a list of seven;
            ECA-Net's kernel is 1 in the first four settings and 3 in the others.
        **kwargs: Arguments of ``mmpretrain.MobileNetV2``.
    """
    return _build('MobileNetV2', attention, **kwargs)
