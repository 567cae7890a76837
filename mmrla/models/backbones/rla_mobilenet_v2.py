# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-MobileNetV2 (Section 4.2, B.2.1).

The hidden state joins after the expansion conv, before the depthwise conv, and
C3 is depthwise separable. The last 1x1 conv (1280 channels) reads the last
hidden state too and is part of :class:`mmrla.models.RLANeck`.
"""

from typing import Any, List, Optional, Tuple

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_choice, check_positive
from ..conv_norm import (
    conv_norm,
    count_batch,
    is_eager,
    is_plain_conv,
    is_tracking_norm,
    is_watched,
)
from ..layers import build_attention
from ..rla import RECURRENT_CONVS, concat_hidden, conv_with_hidden
from ..stage import RLABlock
from .base import AttentionCfg, RLABackbone, attention_of_stage


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is not below 90% of the value."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class InvertedResidual(RLABlock):
    """1x1 expansion, depthwise 3x3 of concat(z, h), linear 1x1.

    Args:
        in_channels (int): Channels C of x.
        hidden_channels (int): Channels k of h that are read; 0 for none.
        out_channels (int): Channels of the output.
        stride (int): Stride of the depthwise conv.
        expand_ratio (int): Expansion; 1 for no expansion conv.
        attention (dict, optional): Config of a module after the last norm.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict): Config of norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        stride: int,
        expand_ratio: int,
        attention: Optional[dict] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(out_channels)
        self.hidden_channels = hidden_channels
        self.has_identity = stride == 1 and in_channels == out_channels
        cfgs = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=dict(type='ReLU6'))
        expanded = in_channels * expand_ratio
        self.expand = (
            ConvModule(in_channels, expanded, 1, **cfgs)
            if expand_ratio > 1
            else nn.Identity()
        )
        expanded += hidden_channels
        self.depthwise = ConvModule(
            expanded, expanded, 3, stride=stride, padding=1, groups=expanded, **cfgs
        )
        self.project = ConvModule(
            expanded, out_channels, 1, **{**cfgs, 'act_cfg': None}
        )
        self.attention = build_attention(attention, out_channels)

    @property
    def last_norm(self) -> Optional[nn.Module]:
        """The norm that ends the residual branch; None without an identity."""
        return self.project.norm if self.has_identity else None

    @property
    def reading_conv(self) -> nn.Module:
        """The linear 1x1 conv: the depthwise conv before it mixes nothing."""
        return self.project.conv

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual y, (N, out_channels, H', W'), and x or None."""
        z = self.expanded(x)
        if h is None and self.hidden_channels and self._needs_no_zeros(z):
            y = self._without_state(z)
        else:
            z = concat_hidden(z, h, self.hidden_channels)
            y = self.project(self.depthwise(z))
        return self.attention(y), x if self.has_identity else None

    def expanded(self, x: Tensor) -> Tensor:
        """What the depthwise conv reads of x, (N, expand_ratio * C, H, W)."""
        expand = self.expand
        if type(expand) is ConvModule and expand.with_norm and not is_watched(expand):
            return expand.activate(conv_norm(expand.conv, expand.norm, x))
        return expand(x)

    def _needs_no_zeros(self, z: Tensor) -> bool:
        """Whether :meth:`_without_state` does for z what the modules do.

        Graphs keep the modules, whose norms exporters fold.
        """
        conv = self.depthwise.conv
        parts = self.depthwise, self.project
        return (
            is_eager(z)
            and not any(is_watched(m) for part in parts for m in part.modules())
            and type(conv) is nn.Conv2d
            and conv.padding_mode == 'zeros'
            and conv.dilation == (1, 1)
            and conv.bias is None
            and is_plain_conv(self.project.conv)
            and is_tracking_norm(self.depthwise.norm)
        )

    def _without_state(self, z: Tensor) -> Tensor:
        """The residual for the zero state, whose map is not computed.

        The norm makes the same value of all its pixels.

        Args:
            z: What the depthwise conv reads, without h.
        """
        conv, norm = self.depthwise.conv, self.depthwise.norm
        channels = conv.out_channels - self.hidden_channels
        weight = conv.weight[:channels]
        z = F.conv2d(z, weight, None, conv.stride, conv.padding, groups=channels)

        def end(u: Tensor, part: slice) -> Tensor:
            """The norm's part of some channels, and the activation."""
            statistics = norm.running_mean[part], norm.running_var[part]
            affine = norm.weight[part], norm.bias[part]
            how = norm.training, norm.momentum, norm.eps
            return self.depthwise.activate(F.batch_norm(u, *statistics, *affine, *how))

        # Two pixels, as a norm in training needs more than one value.
        zero = z.new_zeros((2, self.hidden_channels, 1, 1))
        z, h = end(z, slice(channels)), end(zero, slice(channels, None))[:1]
        count_batch(norm)
        return self.project.norm(conv_with_hidden(self.project.conv, z, h))


@MODELS.register_module()
class RLAMobileNetV2(RLABackbone):
    """MobileNetV2 with recurrent layer aggregation.

    The default is the paper's network: five stages, each with a depthwise
    separable C3, and one C1 for each width. The released code has
    ``recurrent_conv='depthwise', tied=True``.

    Args:
        widen_factor (float): Multiplies all widths. Defaults to 1.
        rla_channels (int): Channels k of the hidden state; 0 builds the plain
            network. Defaults to 32.
        recurrent_conv (str): Kind of C3: 'separable' (depthwise 3x3 and 1x1),
            'depthwise' or 'full'. Defaults to 'separable'.
        tied (bool): Whether all stages use one C3, which then belongs to the
            first. Defaults to False.
        attention: Config of a module after the last norm of each block, or a
            list of seven, one for each inverted-residual setting. ECA-Net's
            kernel is 1 in the first four settings and 3 in the others.
        in_channels (int): Channels of the images. Defaults to 3.
        **kwargs: Arguments of :class:`RLABackbone`: integration, cell, shared,
            exchange, return_hidden, out_indices, frozen_stages, norm_eval,
            conv_cfg, norm_cfg, with_cp, zero_init_residual, init_cfg. Blocks
            without an identity exclude the integrations v5 and v6.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.
    """

    #: (expand_ratio, channels, blocks, stride) of each inverted-residual setting.
    arch_settings: Tuple[Tuple[int, int, int, int], ...] = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    #: The settings of each stage: those of one resolution.
    stage_settings: Tuple[Tuple[int, ...], ...] = ((0,), (1,), (2,), (3, 4), (5, 6))

    def __init__(
        self,
        widen_factor: float = 1.0,
        rla_channels: int = 32,
        recurrent_conv: str = 'separable',
        tied: bool = False,
        attention: AttentionCfg = None,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        check_choice('recurrent_conv', recurrent_conv, RECURRENT_CONVS)
        check_positive('in_channels', in_channels)
        if not widen_factor > 0:
            raise ValueError(f'widen_factor={widen_factor!r} is not positive')
        kwargs.setdefault('out_indices', (len(self.stage_settings) - 1,))
        kwargs.setdefault('zero_init_residual', False)
        super().__init__(len(self.stage_settings), rla_channels, **kwargs)
        check_choice('integration', self.integration, ('v1', 'v2', 'v3', 'v4'))
        if tied and not (self.shared and self.cell in ('conv', 'post-act')):
            raise ValueError(
                "tied=True needs shared=True and cell='conv' or 'post-act', got "
                f'shared={self.shared}, cell={self.cell!r}'
            )

        channels = _round_channels(32 * widen_factor)
        self.conv1 = ConvModule(
            in_channels,
            channels,
            3,
            stride=2,
            padding=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=dict(type='ReLU6'),
        )
        tied_recurrent: Optional[nn.Module] = None
        for settings in self.stage_settings[: self.num_stages]:
            blocks: List[RLABlock] = []
            for i in settings:
                expand_ratio, width, num_blocks, setting_stride = self.arch_settings[i]
                out_channels = _round_channels(width * widen_factor)
                for t in range(num_blocks):
                    blocks.append(
                        InvertedResidual(
                            channels,
                            self.hidden_inputs,
                            out_channels,
                            stride=setting_stride if t == 0 else 1,
                            expand_ratio=expand_ratio,
                            attention=attention_of_stage(
                                attention, i, len(self.arch_settings)
                            ),
                            conv_cfg=self.conv_cfg,
                            norm_cfg=self.norm_cfg,
                        )
                    )
                    channels = out_channels
            self.add_stage(
                blocks,
                stride=self.arch_settings[settings[0]][3],
                recurrent_conv=recurrent_conv,
                tied_recurrent=tied_recurrent,
            )
            unit = self.stages[-1].rla
            if tied and tied_recurrent is None and unit is not None:
                tied_recurrent = unit.recurrent_module(0)
        self._freeze_stages()

    def stem_modules(self) -> List[nn.Module]:
        """The stem's conv and norm."""
        return [self.conv1]

    def forward_stem(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, 32, H/2, W/2) at widen_factor 1."""
        return self.conv1(x)
