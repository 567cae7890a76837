# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-Xception for CIFAR (Tables 2 and 9): a thin Xception.

The cells of Table 9 are lost. The widths follow from the parameters (2.70M, and
2.75M for CIFAR-100). Of Xception's five downsamplings (Chollet 2017) the first
three are left out, so that the blocks see the resolutions that they have in
the original network. The exit flow's last two separable convs are blocks too, each
reading h: so RLA adds 0.063M (0.07M and 0.06M in Table 2), else 0.050M.
"""

from typing import Any, List, Optional, Sequence, Tuple

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_choice, check_positive, check_range
from ..layers import build_attention
from ..rla import concat_hidden
from ..stage import RLABlock
from .base import AttentionCfg, RLABackbone, attention_of_stage


def _separable(
    in_channels: int, out_channels: int, conv_cfg: Optional[dict], norm_cfg: dict
) -> nn.Module:
    """Depthwise 3x3, 1x1, norm; nothing between the convs (Chollet 2017)."""
    return DepthwiseSeparableConvModule(
        in_channels,
        out_channels,
        3,
        padding=1,
        bias=False,
        conv_cfg=conv_cfg,
        norm_cfg=norm_cfg,
        act_cfg=None,
        dw_norm_cfg=None,
    )


class XceptionBlock(RLABlock):
    """ReLU and separable conv, as often as there are widths, then pooling.

    Args:
        in_channels (int): Channels C of x.
        hidden_channels (int): Channels k of h that are read; 0 for none.
        widths: Output channels of each separable conv.
        stride (int): Stride of the average pooling; 1 for none.
        attention (dict, optional): Config of a module at the branch's end.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict): Config of norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        widths: Sequence[int],
        stride: int = 1,
        attention: Optional[dict] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        out_channels = widths[-1]
        super().__init__(out_channels)
        self.hidden_channels = hidden_channels
        inputs = (in_channels + hidden_channels, *widths[:-1])
        self.convs = nn.ModuleList(
            _separable(c, width, conv_cfg, norm_cfg) for c, width in zip(inputs, widths)
        )
        # Rounds sizes up, as the strided conv of the identity does.
        self.pool = (
            nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )
        self.attention = build_attention(attention, out_channels)
        self.downsample = (
            ConvModule(
                in_channels,
                out_channels,
                1,
                stride=stride,
                conv_cfg=conv_cfg,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )
            if stride > 1 or in_channels != out_channels
            else nn.Identity()
        )
        self.relu = nn.ReLU()

    @property
    def last_norm(self) -> nn.Module:
        """The norm of the last separable conv."""
        return self.convs[-1].pointwise_conv.norm

    @property
    def reading_conv(self) -> nn.Module:
        """The 1x1 conv of the first separable conv."""
        return self.convs[0].pointwise_conv.conv

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """The residual y and the (projected) identity, (N, C', H', W')."""
        y = concat_hidden(x, h, self.hidden_channels)
        for conv in self.convs:
            y = conv(self.relu(y))
        return self.attention(self.pool(y)), self.downsample(x)


class SeparableBlock(RLABlock):
    """A separable conv of concat(x, h) and ReLU, without an identity.

    Args:
        in_channels (int): Channels C of x.
        hidden_channels (int): Channels k of h that are read; 0 for none.
        out_channels (int): Channels of the output.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict): Config of norm layers.
    """

    #: Without an identity the output would start at zero.
    last_norm = None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(out_channels, nn.ReLU())
        self.hidden_channels = hidden_channels
        self.conv = _separable(
            in_channels + hidden_channels, out_channels, conv_cfg, norm_cfg
        )

    @property
    def reading_conv(self) -> nn.Module:
        """The 1x1 conv of the separable conv."""
        return self.conv.pointwise_conv.conv

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, None]:
        """The output before ReLU, (N, C', H, W), and no identity."""
        return self.conv(concat_hidden(x, h, self.hidden_channels)), None


@MODELS.register_module()
class RLAXception(RLABackbone):
    """Thin Xception for images of 32x32 with recurrent layer aggregation.

    Three stages at strides 1, 2 and 4: the first two blocks of the entry flow;
    its third and the middle flow; the exit flow, with its two separable convs.

    Args:
        rla_channels (int): Channels k of the hidden state; 0 builds the plain
            Xception. Defaults to 12.
        attention: Config of a module at the end of each residual branch, or a
            list of one for each stage. Defaults to None.
        in_channels (int): Channels of the images. Defaults to 3.
        stem_channels: Channels of the two 3x3 convs of the stem. Defaults to
            (16, 32).
        entry_channels: Channels of the three blocks of the entry flow; the
            middle flow has the last. Defaults to (64, 128, 256).
        num_middle_blocks (int): Blocks of the middle flow. Defaults to 8.
        exit_channels: Channels of the exit flow's block and two separable
            convs. Defaults to (512, 512, 512).
        **kwargs: Arguments of :class:`RLABackbone`: integration, cell, shared,
            exchange, return_hidden, out_indices, frozen_stages, norm_eval,
            conv_cfg, norm_cfg, with_cp, zero_init_residual (False by default),
            init_cfg. The exit flow's separable convs have no identity, which
            excludes the integrations v5 and v6.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAXception
        >>> model = RLAXception(return_hidden=True).eval()
        >>> for out in model(torch.rand(1, 3, 32, 32)):
        ...     print(tuple(out.shape))
        (1, 512, 8, 8)
        (1, 12, 8, 8)
    """

    strides = (1, 2, 2)

    def __init__(
        self,
        rla_channels: int = 12,
        attention: AttentionCfg = None,
        in_channels: int = 3,
        stem_channels: Sequence[int] = (16, 32),
        entry_channels: Sequence[int] = (64, 128, 256),
        num_middle_blocks: int = 8,
        exit_channels: Sequence[int] = (512, 512, 512),
        **kwargs: Any,
    ) -> None:
        check_positive('in_channels', in_channels)
        check_range('num_middle_blocks', num_middle_blocks, 0, 1024)
        for name, values, length in (
            ('stem_channels', stem_channels, 2),
            ('entry_channels', entry_channels, 3),
            ('exit_channels', exit_channels, 3),
        ):
            if len(values) != length:
                raise ValueError(f'{name}={tuple(values)!r} needs {length} entries')
            for value in values:
                check_positive(f'{name} entry', value)
        kwargs.setdefault('out_indices', (len(self.strides) - 1,))
        kwargs.setdefault('zero_init_residual', False)
        super().__init__(len(self.strides), rla_channels, **kwargs)
        check_choice('integration', self.integration, ('v1', 'v2', 'v3', 'v4'))

        cfgs: dict = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        self.conv1 = ConvModule(in_channels, stem_channels[0], 3, padding=1, **cfgs)
        self.conv2 = ConvModule(
            stem_channels[0], stem_channels[1], 3, padding=1, **cfgs
        )
        middle = entry_channels[-1]
        #: Widths of each block's separable convs, stage by stage.
        widths: Sequence[Sequence[Tuple[int, ...]]] = (
            [(c, c) for c in entry_channels[:2]],
            [(middle, middle), *[(middle,) * 3] * num_middle_blocks],
            [(middle, exit_channels[0])],
        )
        channels = stem_channels[1]
        for i in range(self.num_stages):
            blocks: List[RLABlock] = []
            for t, block_widths in enumerate(widths[i]):
                blocks.append(
                    XceptionBlock(
                        channels,
                        self.hidden_inputs,
                        block_widths,
                        stride=self.strides[i] if t == 0 else 1,
                        attention=attention_of_stage(attention, i, len(self.strides)),
                        **cfgs,
                    )
                )
                channels = block_widths[-1]
            if i + 1 == len(self.strides):
                for width in exit_channels[1:]:
                    blocks.append(
                        SeparableBlock(channels, self.hidden_inputs, width, **cfgs)
                    )
                    channels = width
            self.add_stage(blocks, self.strides[i])
        self._freeze_stages()

    def stem_modules(self) -> List[nn.Module]:
        """The stem's two convs and their norms."""
        return [self.conv1, self.conv2]

    def forward_stem(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, stem_channels[1], H, W)."""
        return self.conv2(self.conv1(x))
