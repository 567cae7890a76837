# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmdet's and mmpretrain's MobileNetV2 (Section 4.2, B.2.1).

The hidden state joins after the expansion conv, before the depthwise conv: what a
block reads of h is a depthwise conv, norm and ReLU6, and the part of the linear 1x1
conv that mixes them. C3 is depthwise separable. The last 1x1 conv, ``conv2``, reads
ReLU6(BN(h)) of the last state.
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
    """Depthwise 3x3 conv, norm and ReLU6 of h, and a 1x1 conv.

    Args:
        rla_channels (int): Channels k of the hidden state.
        out_channels (int): Channels of the addend.
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
        #: Whether it reads h_0, of one value for each image and channel.
        self.reads_zero_state = False

    def forward(self, h: Tensor) -> Tensor:
        """(N, k, H, W) to (N, out_channels, H', W')."""
        z = self.depthwise(h)
        if self.training and self.reads_zero_state:
            # A norm in training needs two values a channel, also for one image.
            z = self.norm(torch.cat((z, z)))[: h.shape[0]]
        else:
            z = self.norm(z)
        return self.pointwise(self.act(z))


class LastRead(nn.Module):
    """ReLU6(BN(h)) and a 1x1 conv: what ``conv2`` reads of the last state.

    Args:
        rla_channels (int): Channels k of the hidden state.
        out_channels (int): Channels of the addend.
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
    """The convs of an inverted residual: expansion (if any), depthwise, linear."""
    if hasattr(block, 'conv'):  # mmpretrain's
        return list(block.conv)
    expand = [block.expand_conv] if block.with_expand_conv else []  # mmdet's
    return [*expand, block.depthwise_conv, block.linear_conv]


class RLAOverMobileNetV2(RLA):
    """RLA over MobileNetV2.

    The default is the paper's network: five stages, each with a depthwise
    separable C3, and one C1 for each width. The released code has
    ``recurrent_conv='depthwise', tied=True``.

    Args:
        *args: Arguments of the plain network.
        recurrent_conv (str): Kind of C3: 'separable' (depthwise 3x3 and 1x1),
            'depthwise' or 'full'. Defaults to 'separable'.
        tied (bool): Whether all stages use one C3, which then belongs to the
            first. Defaults to False.
        plugins: Layers behind the last norm of each block, as mmdet's ResNet
            takes them; ``stages`` has seven entries. ECA-Net's kernel is 1 in
            the first four layers and 3 in the others.
        **kwargs: Arguments of the plain network and of RLA.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.
    """

    #: Blocks without an identity exclude v5 and v6.
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
        """The units of the stages; one C3 for all if it is tied."""
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
        """Whether ``conv2`` runs."""
        return len(self.layers) - 1 in self.out_indices

    @property
    def reads_last_state(self) -> bool:
        """Whether anything reads the state after the last block."""
        return self.return_hidden or (self.runs_last_conv and self.exchange)

    def layer_names(self) -> List[str]:
        """Names of the layers of blocks, up to the last that is needed."""
        return self.layers[:-1][: max((0, *self.out_indices)) + 1]

    def unit_layers(self) -> List[List[int]]:
        """Layers of stride 1 belong to the stage before them."""
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
        """(N, 3, H, W) to (N, 32, H/2, W/2) at widen_factor 1."""
        return self.conv1(x)

    def finish(self, x: Tensor) -> Tensor:
        """Nothing: the last block's output is the network's."""
        return x

    def branch(
        self, block: nn.Module, x: Tensor, read: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual, (N, C', H', W'), and x or None."""
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
        """A conv module before the linear one: expansion or depthwise conv."""
        return conv(x)

    def join(self, block: nn.Module, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The sum, where the block has an identity."""
        if identity is None:
            return y
        return identity + (block.drop_path(y) if hasattr(block, 'drop_path') else y)

    def mixing_conv(self, block: nn.Module) -> nn.Module:
        """The linear 1x1 conv: the depthwise conv before it mixes nothing."""
        return convs_of(block)[-1].conv

    def make_read(self, block: nn.Module) -> nn.Module:
        """What a block reads of h."""
        *_, depthwise, linear = convs_of(block)
        return DepthwiseRead(
            self.rla_channels,
            linear.conv.out_channels,
            depthwise.conv.stride[0],
            self.rla_norm_cfg,
        )

    def block_channels(self, block: nn.Module) -> int:
        """Channels of a block's output."""
        return convs_of(block)[-1].conv.out_channels

    def last_outputs(self, x: Tensor, state: Tensor) -> List[Tensor]:
        """``conv2`` of x and the last state, if it is asked for, and that state."""
        outs: List[Tensor] = []
        if self.runs_last_conv:
            y = self.conv2.conv(x)
            if self.rla is not None and self.exchange:
                unit = self.rla[-1]
                y = y + unit.last(unit.hidden(state))
            outs.append(self.conv2.activate(self.conv2.norm(y)))
        return outs + super().last_outputs(x, state)


def _has_identity(block: nn.Module) -> bool:
    """Whether a block adds its input: mmpretrain's name for it, or mmdet's."""
    if hasattr(block, 'use_res_connect'):
        return block.use_res_connect
    return block.with_res_shortcut
