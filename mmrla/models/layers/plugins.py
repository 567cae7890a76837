# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Plugins, as in mmdet's ResNet, for the blocks of networks without them."""

from typing import Any, Iterable, List, Optional, Sequence

from mmcv.cnn import build_plugin_layer
from torch import Tensor, nn

from ..checks import check_choice


def add_plugins(
    layers: Sequence[Iterable[nn.Module]],
    channels: Sequence[Sequence[int]],
    plugins: Optional[Sequence[dict]],
) -> None:
    """Add plugin layers at the end of the residual branches of blocks.

    Args:
        layers: The layers of blocks.
        channels: Channels of each block's residual, layer by layer.
        plugins: Dicts with ``cfg``, ``position`` ('after_conv3') and, optionally,
            ``stages``: for each layer whether its blocks have the plugin.

    Raises:
        ValueError: For another position, or too few ``stages``.
    """
    for i, (layer, widths) in enumerate(zip(layers, channels)):
        add_layer_plugins(i, len(layers), layer, widths, plugins)


def add_layer_plugins(
    i: int,
    num_layers: int,
    layer: Iterable[Any],
    channels: Sequence[int],
    plugins: Optional[Sequence[dict]],
) -> None:
    """:func:`add_plugins` for layer i (from 0) of ``num_layers``."""
    check_plugins(plugins, num_layers, ['after_conv3'])
    for plugin in plugins or ():
        stages = plugin.get('stages') or [True] * num_layers
        for block, width in zip(layer if stages[i] else (), channels):
            cfg = dict(plugin['cfg'])
            name, module = build_plugin_layer(
                cfg, postfix=cfg.pop('postfix', ''), in_channels=width
            )
            block.add_module(name, module)
            names = plugin_names(block, 3)
            block.after_conv3_plugin_names = [*names, name]


def check_plugins(
    plugins: Optional[Sequence[dict]], num_layers: int, positions: Sequence[str]
) -> None:
    """Check that ``plugins`` has the form that mmdet's ResNet takes.

    Args:
        plugins: The argument of a network.
        num_layers: Number of layers of blocks, each with an entry in ``stages``.
        positions: Allowed values of ``position``.

    Raises:
        ValueError: If it has not.
    """
    if not isinstance(plugins, (list, tuple, type(None))):
        raise ValueError(f'plugins={plugins!r} is not a list of dicts')
    for plugin in plugins or ():
        if not isinstance(plugin, dict) or not {'cfg', 'position'} <= set(plugin):
            raise ValueError(f"plugins entry {plugin!r} needs 'cfg' and 'position'")
        check_choice('position', plugin['position'], positions)
        stages = plugin.get('stages')
        if stages and len(stages) < num_layers:
            raise ValueError(
                f'stages={tuple(stages)!r} needs one entry for each of the '
                f'{num_layers} layers'
            )


def plugin_names(block: nn.Module, position: int) -> List[str]:
    """Names of a block's plugins after conv 1, 2 or 3."""
    return getattr(block, f'after_conv{position}_plugin_names', [])


def apply_plugins(block: nn.Module, position: int, y: Tensor) -> Tensor:
    """Run a block's plugins after conv 1, 2 or 3 on y, (N, C, H, W)."""
    for name in plugin_names(block, position):
        y = getattr(block, name)(y)
    return y
