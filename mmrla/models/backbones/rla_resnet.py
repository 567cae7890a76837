# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-ResNet: ResNet, ResNet-D and ResNeXt with recurrent layer aggregation.

Paper: Table 10; with ECA, SE or CBAM after the last BN of a block (Section 4.2).
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmcv.cnn import ConvModule, build_conv_layer, build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_choice, check_positive, check_range
from ..conv_norm import end_of_branch
from ..layers import build_attention
from ..rla import conv_with_hidden
from ..stage import RLABlock
from .base import AttentionCfg, RLABackbone, attention_of_stage


class Bottleneck(RLABlock):
    """1x1, 3x3 (strided), 1x1; the first conv reads concat(x, h).

    Args:
        in_channels (int): Channels C of x.
        hidden_channels (int): Channels k of h that are read; 0 for none.
        width (int): Channels of the 3x3 conv.
        out_channels (int): Channels of the output.
        stride (int): Stride of the 3x3 conv. Defaults to 1.
        dilation (int): Dilation of the 3x3 conv. Defaults to 1.
        groups (int): Groups of the 3x3 conv. Defaults to 1.
        downsample (nn.Module, optional): Projection of the identity.
        attention (dict, optional): Config of a module after the last norm.
        drop_path_rate (float): Stochastic depth. Defaults to 0.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict): Config of norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        width: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        downsample: Optional[nn.Module] = None,
        attention: Optional[dict] = None,
        drop_path_rate: float = 0.0,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(out_channels, nn.ReLU(inplace=True), drop_path_rate)
        self.conv1 = build_conv_layer(
            conv_cfg, in_channels + hidden_channels, width, 1, bias=False
        )
        self.bn1 = build_norm_layer(norm_cfg, width)[1]
        self.conv2 = build_conv_layer(
            conv_cfg,
            width,
            width,
            3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        )
        self.bn2 = build_norm_layer(norm_cfg, width)[1]
        self.conv3 = build_conv_layer(conv_cfg, width, out_channels, 1, bias=False)
        self.bn3 = build_norm_layer(norm_cfg, out_channels)[1]
        self.attention = build_attention(attention, out_channels)
        self.downsample = downsample or nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the residual branch."""
        return self.bn3

    @property
    def reading_conv(self) -> nn.Module:
        """The first 1x1 conv."""
        return self.conv1

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """What the last conv reads, (N, width, H', W'), and the identity."""
        y = self.middle(conv_with_hidden(self.conv1, x, h))
        return y, self.downsample(x)

    def middle(self, y: Tensor) -> Tensor:
        """From the first conv's output to the last's input, (N, width, H', W')."""
        y = self.relu(self.bn1(y))
        return self.relu(self.bn2(self.conv2(y)))

    def end(
        self, y: Tensor, compress: Optional[nn.Module] = None
    ) -> Tuple[Tensor, Optional[Tensor], bool]:
        """Last conv, norm and attention: the residual; and C1 of it."""
        return end_of_branch(self.conv3, self.bn3, self.attention, compress, y)


@MODELS.register_module()
class RLAResNet(RLABackbone):
    """ResNet with recurrent layer aggregation.

    The default is the paper's network; ``integration='v3'`` is what the
    released code and weights compute.

    Args:
        depth (int): 50, 101 or 152.
        rla_channels (int): Channels k of the hidden state; 0 builds the plain
            ResNet. Defaults to 32.
        attention: Config of a module after the last norm of each block,
            ``dict(type='ECALayer')``, ``'SELayer'`` or ``'CBAM'``, or a list of
            one for each stage. Defaults to None.
        in_channels (int): Channels of the images. Defaults to 3.
        stem_channels (int): Channels of the stem. Defaults to 64.
        base_channels (int): Width of the first stage's bottlenecks (doubled
            in each later one, times 4 at their outputs). Defaults to 64.
        extra_channels (int): Channels added to every output of a stage, a
            quarter of them to the bottlenecks; ablation (a) has 32. A multiple
            of 4. Defaults to 0.
        groups (int): Groups of the 3x3 convs. Defaults to 1; ResNeXt: 32.
        width_per_group (int): Channels of a group in the first stage, if
            ``base_channels`` is 64. Defaults to 64; ResNeXt: 4.
        num_stages (int): Stages, 1 to 4. Defaults to 4.
        strides: Stride of each stage. Defaults to (1, 2, 2, 2).
        dilations: Dilation of each stage's 3x3 convs. Defaults to 1.
        deep_stem (bool): Three 3x3 convs instead of one 7x7 (ResNet-D).
        avg_down (bool): Average-pool the identity before its 1x1 conv
            (ResNet-D).
        drop_path_rate (float): Stochastic depth of the last block, rising
            linearly from 0. Defaults to 0.
        **kwargs: Arguments of :class:`RLABackbone`: integration, cell, shared,
            exchange, return_hidden, out_indices, frozen_stages, norm_eval,
            conv_cfg, norm_cfg, with_cp, zero_init_residual, init_cfg.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAResNet
        >>> model = RLAResNet(depth=50, out_indices=(0, 1, 2, 3)).eval()
        >>> for out in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(out.shape))
        (1, 256, 16, 24)
        (1, 512, 8, 12)
        (1, 1024, 4, 6)
        (1, 2048, 2, 3)
    """

    #: Blocks in each stage.
    arch_settings: Dict[int, Tuple[int, ...]] = {
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    expansion = 4

    def __init__(
        self,
        depth: int,
        rla_channels: int = 32,
        attention: AttentionCfg = None,
        in_channels: int = 3,
        stem_channels: int = 64,
        base_channels: int = 64,
        extra_channels: int = 0,
        groups: int = 1,
        width_per_group: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        deep_stem: bool = False,
        avg_down: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        check_choice('depth', depth, self.arch_settings)
        check_range('num_stages', num_stages, 1, 4)
        for name, value in dict(
            in_channels=in_channels,
            stem_channels=stem_channels,
            base_channels=base_channels,
            groups=groups,
            width_per_group=width_per_group,
        ).items():
            check_positive(name, value)
        for name, values in dict(strides=strides, dilations=dilations).items():
            if len(values) < num_stages:
                raise ValueError(
                    f'{name}={tuple(values)!r} needs one entry for each of the '
                    f'{num_stages} stages'
                )
            for value in values:
                check_positive(f'{name} entry', value)
        kwargs.setdefault('out_indices', (num_stages - 1,))
        super().__init__(num_stages, rla_channels, **kwargs)
        if extra_channels % self.expansion or extra_channels < 0:
            raise ValueError(
                f'extra_channels={extra_channels} is not a multiple of '
                f'{self.expansion}, 0 or more'
            )
        if not 0 <= drop_path_rate < 1:
            raise ValueError(
                f'drop_path_rate={drop_path_rate} is not in the range 0 to 1'
            )
        self.depth = depth
        self.deep_stem = deep_stem
        self._make_stem(in_channels, stem_channels)

        num_blocks = self.arch_settings[depth][:num_stages]
        rates = np.linspace(0, drop_path_rate, sum(num_blocks)).tolist()
        channels = stem_channels
        for i in range(self.num_stages):
            planes = base_channels * 2**i + extra_channels // self.expansion
            width = planes
            if groups > 1:
                width = groups * (planes * width_per_group // 64)
                check_positive('width of the grouped conv', width)
            out_channels = planes * self.expansion
            blocks: List[RLABlock] = []
            for t in range(num_blocks[i]):
                stride = strides[i] if t == 0 else 1
                project = t == 0 and (stride > 1 or channels != out_channels)
                blocks.append(
                    Bottleneck(
                        channels,
                        self.hidden_inputs,
                        width,
                        out_channels,
                        stride=stride,
                        dilation=dilations[i],
                        groups=groups,
                        downsample=self._make_downsample(
                            channels, out_channels, stride, avg_down
                        )
                        if project
                        else None,
                        attention=attention_of_stage(attention, i, num_stages),
                        drop_path_rate=rates.pop(0),
                        conv_cfg=self.conv_cfg,
                        norm_cfg=self.norm_cfg,
                    )
                )
                channels = out_channels
            self.add_stage(blocks, strides[i])
        self._freeze_stages()

    def _make_stem(self, in_channels: int, channels: int) -> None:
        cfgs = dict(conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        if self.deep_stem:
            half = channels // 2
            self.stem = nn.Sequential(
                ConvModule(in_channels, half, 3, stride=2, padding=1, **cfgs),
                ConvModule(half, half, 3, padding=1, **cfgs),
                ConvModule(half, channels, 3, padding=1, **cfgs),
            )
        else:
            self.conv1 = build_conv_layer(
                self.conv_cfg, in_channels, channels, 7, stride=2, padding=3, bias=False
            )
            self.bn1 = build_norm_layer(self.norm_cfg, channels)[1]
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)

    def _make_downsample(
        self, in_channels: int, out_channels: int, stride: int, avg_down: bool
    ) -> nn.Module:
        layers: List[nn.Module] = []
        if avg_down and stride > 1:
            layers.append(
                nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            )
            stride = 1
        layers += [
            build_conv_layer(
                self.conv_cfg, in_channels, out_channels, 1, stride=stride, bias=False
            ),
            build_norm_layer(self.norm_cfg, out_channels)[1],
        ]
        return nn.Sequential(*layers)

    def stem_modules(self) -> List[nn.Module]:
        """The stem's convs and norms."""
        return [self.stem] if self.deep_stem else [self.conv1, self.bn1]

    def forward_stem(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, stem_channels, H/4, W/4)."""
        if self.deep_stem:
            x = self.stem(x)
        else:
            x = self.relu(self.bn1(self.conv1(x)))
        return self.maxpool(x)
