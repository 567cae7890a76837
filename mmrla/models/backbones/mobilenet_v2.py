# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmdet's and mmpretrain's MobileNetV2 (Section 4.2, B.2.1).

The hidden state joins the main features after the expansion conv, so it passes through
a depthwise conv, norm and ReLU6 before the linear 1x1 conv mixes both: these layers are
a block's read. C3 is depthwise separable. ReLU6(BN(h)) of the last state joins before
the last 1x1 conv, ``conv2``.
"""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmengine.model import ModuleList
from torch import Tensor, nn

from ..checks import check_choice
from ..layers.plugins import add_plugins, apply_plugins
from ..layers.recurrent import RECURRENT_CONVS
from ..rla import RLA


class DepthwiseRead(nn.Module):
    """The read of a block: depthwise 3x3 conv, norm, ReLU6 and 1x1 conv of h.

    Args:
        rla_channels (int): Channels k of the hidden state.
        out_channels (int): Channels of the block's output.
        stride (int): Stride of the depthwise conv.
        norm_cfg (dict): Config of the norm.
    """

    def __init__(
        self, rla_channels: int, out_channels: int, stride: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            rla_channels,
            rla_channels,
            3,
            stride,
            padding=1,
            groups=rla_channels,
            bias=False,
        )
        self.norm = build_norm_layer(norm_cfg, rla_channels)[1]
        self.act = nn.ReLU6(inplace=True)
        self.pointwise = nn.Conv2d(rla_channels, out_channels, 1, bias=False)
        #: Whether h is h_0, (N, k, 1, 1).
        self.reads_zero_state = False

    def forward(self, h: Tensor) -> Tensor:
        """(N, k, H, W) to (N, out_channels, H', W')."""
        z = self.depthwise(h)
        if self.training and self.reads_zero_state:
            # In training a norm needs two values per channel, even for one image.
            z = self.norm(torch.cat((z, z)))[: h.shape[0]]
        else:
            z = self.norm(z)
        return self.pointwise(self.act(z))


class LastRead(nn.Module):
    """The read of ``conv2``: norm, ReLU6 and 1x1 conv of the last state.

    Args:
        rla_channels (int): Channels k of the hidden state.
        out_channels (int): Channels of the output of ``conv2``.
        norm_cfg (dict): Config of the norm.
    """

    def __init__(self, rla_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, rla_channels)[1]
        self.act = nn.ReLU6(inplace=True)
        self.conv = nn.Conv2d(rla_channels, out_channels, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """(N, k, H, W) to (N, out_channels, H, W)."""
        return self.conv(self.act(self.norm(h)))


def convs_of(block: nn.Module) -> List[ConvModule]:
    """Convs of an inverted residual: expansion (if any), depthwise and linear."""
    if hasattr(block, 'conv'):  # mmpretrain's
        return list(block.conv)
    expand = [block.expand_conv] if block.with_expand_conv else []  # mmdet's
    return [*expand, block.depthwise_conv, block.linear_conv]


class RLAOverMobileNetV2(RLA):
    """RLA over MobileNetV2.

    The default is the paper's network: five stages, each with a depthwise separable C3
    and a C1 for each width. The released code and weights need
    ``recurrent_conv='depthwise'`` and ``tied=True``.

    Args:
        *args: Arguments of the plain network.
        recurrent_conv (str): Kind of C3: 'separable' (depthwise 3x3, then 1x1),
            'depthwise' or 'full'. Defaults to 'separable'.
        tied (bool): Whether all stages share the C3 of the first. Defaults to False.
        plugins: Layers after the last norm of each block, in the form that mmdet's
            ResNet takes; ``position`` is 'after_conv3', ``stages`` has seven entries.
            ECA has kernel size 1 in the first four layers and 3 in the others
            (Table 3). Defaults to None.
        **kwargs: Arguments of the plain network and of :class:`mmrla.models.RLA`.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.
    """

    #: Not v5 and v6, as some blocks have no identity.
    integrations = ('v1', 'v2', 'v3', 'v4')

    def __init__(
        self,
        *args: Any,
        recurrent_conv: str = 'separable',
        tied: bool = False,
        plugins: Optional[Sequence[dict]] = None,
        **kwargs: Any,
    ) -> None:
        check_choice('recurrent_conv', recurrent_conv, RECURRENT_CONVS)
        shared, cell = kwargs.get('shared', True), kwargs.get('cell', 'conv')
        if tied and not (shared and cell in ('conv', 'post-act')):
            raise ValueError(
                "tied=True needs shared=True and cell='conv' or 'post-act', got "
                f'shared={shared}, cell={cell!r}'
            )
        self._recurrent_conv, self._tied = recurrent_conv, tied
        super().__init__(*args, **kwargs)
        if plugins:
            layers = [getattr(self, name) for name in self.layers[:-1]]
            widths = [[self.block_channels(block) for block in la] for la in layers]
            add_plugins(layers, widths, plugins)

    def make_units(self, **kwargs: Any) -> ModuleList:
        """Build the units, one per stage."""
        kwargs['recurrent_conv'] = self._recurrent_conv
        units = super().make_units(**kwargs)
        if self._tied and units[0].num_updates:
            first = units[0].recurrent_of(0)
            for unit in units[1:]:
                unit.tie_recurrent(first)
        if self.exchange:
            units[0].read[0].reads_zero_state = True
        if self.runs_last_conv and self.exchange:
            units[-1].last = LastRead(
                self.rla_channels, self.conv2.conv.out_channels, self.rla_norm_cfg
            )
        return units

    @property
    def runs_last_conv(self) -> bool:
        """Whether the output of ``conv2`` is in ``out_indices``."""
        return len(self.layers) - 1 in self.out_indices

    @property
    def reads_last_state(self) -> bool:
        """Whether the state after the last block is used."""
        return self.return_hidden or (self.runs_last_conv and self.exchange)

    def layer_names(self) -> List[str]:
        """Names of the layers of blocks, up to the last one in ``out_indices``."""
        return self.layers[:-1][: max((0, *self.out_indices)) + 1]

    def unit_layers(self) -> List[List[int]]:
        """Indices of the layers of each unit: a layer of stride 1 joins the last."""
        stages: List[List[int]] = []
        for i in range(len(self.layer_names())):
            if i == 0 or self.stage_stride(i) > 1:
                stages.append([])
            stages[-1].append(i)
        return stages

    def stage_stride(self, i: int) -> int:
        """Stride of layer i."""
        return self.arch_settings[i][3]

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to (N, 32 * widen_factor, H/2, W/2)."""
        return self.conv1(x)

    def branch(
        self, block: nn.Module, x: Tensor, read: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual, (N, C', H', W'), and the identity: x, or None for none."""
        *front, linear = convs_of(block)
        y = x
        for conv in front:
            y = self.expand(conv, y)
        y = linear.conv(y)
        if read is not None:
            y = y + read
        y = apply_plugins(block, 3, linear.norm(y))
        return y, x if _has_identity(block) else None

    def expand(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Run the expansion or the depthwise conv, with norm and activation."""
        return conv(x)

    def join(self, block: nn.Module, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The sum of both; y in a block without an identity."""
        if identity is None:
            return y
        return identity + (block.drop_path(y) if hasattr(block, 'drop_path') else y)

    def mixing_conv(self, block: nn.Module) -> nn.Module:
        """The linear 1x1 conv; the depthwise conv before it mixes no channels."""
        return convs_of(block)[-1].conv

    def make_read(self, block: nn.Module) -> nn.Module:
        """Build a block's read."""
        *_, depthwise, linear = convs_of(block)
        return DepthwiseRead(
            self.rla_channels,
            linear.conv.out_channels,
            depthwise.conv.stride[0],
            self.rla_norm_cfg,
        )

    def block_channels(self, block: nn.Module) -> int:
        """Channels C' of a block's output."""
        return convs_of(block)[-1].conv.out_channels

    def last_outputs(self, x: Tensor, state: Tensor) -> List[Tensor]:
        """The output of ``conv2`` and the last state, each if it is asked for."""
        outs: List[Tensor] = []
        if self.runs_last_conv:
            y = self.conv2.conv(x)
            if self.rla is not None and self.exchange:
                unit = self.rla[-1]
                y = y + unit.last(unit.hidden(state))
            outs.append(self.conv2.activate(self.conv2.norm(y)))
        return outs + super().last_outputs(x, state)


def _has_identity(block: nn.Module) -> bool:
    """Whether a block adds its input to its output."""
    if hasattr(block, 'use_res_connect'):  # mmpretrain's
        return block.use_res_connect
    return block.with_res_shortcut  # mmdet's
