# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmdet's and mmpretrain's ResNets: how their blocks are taken apart."""

import logging
from typing import Any, List, Optional, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..checks import check_at_most, check_choice
from ..layers.plugins import apply_plugins, check_plugins
from ..rla import RLA

_POSITIONS = ('after_conv1', 'after_conv2', 'after_conv3')


class RLAOverResNet(RLA):
    """RLA over a ResNet whose blocks are upstream's BasicBlock or Bottleneck.

    In the paper the first conv of a block reads concat(x, h) (Eq. 11). Here the read
    is a conv of h like it, 1x1 in a bottleneck and 3x3 in a basic block.

    As in upstream, negative ``out_indices`` select no output (a warning says so), and
    a negative ``frozen_stages`` freezes nothing.

    Raises:
        ValueError: For an unknown depth, a stage index or ``frozen_stages`` above the
            number of stages, or ``plugins`` that mmdet does not take.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Upstream refuses these without naming the allowed values, or not at all.
        num_stages = kwargs.get('num_stages', 4)
        if 'depth' in kwargs:
            check_choice('depth', kwargs['depth'], self.arch_settings)
        for index in kwargs.get('out_indices', ()):
            check_at_most('out_indices entry', index, num_stages - 1)
        check_plugins(kwargs.get('plugins'), num_stages, _POSITIONS)
        super().__init__(*args, **kwargs)
        if min(self.out_indices) < 0:
            print_log(
                f'{type(self).__name__}: out_indices={tuple(self.out_indices)}: '
                'negative indices mean no stage; stages count from 0',
                logger='current',
                level=logging.WARNING,
            )

    def _freeze_stages(self) -> None:
        check_at_most('frozen_stages', self.frozen_stages, self.num_stages)
        super()._freeze_stages()

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to (N, stem_channels, H/4, W/4)."""
        if self.deep_stem:
            x = self.stem(x)
        else:
            x = self.relu(self.norm1(self.conv1(x)))
        return self.maxpool(x)

    def branch(
        self, block: nn.Module, x: Tensor, read: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor]:
        """The residual and the (projected) identity, (N, C', H', W') each."""
        y = block.conv1(x)
        if read is not None:
            y += read  # in place: the conv does not need its output for gradients
        return self.end(block, self.middle(block, y)), self.shortcut(block, x)

    def middle(self, block: nn.Module, y: Tensor) -> Tensor:
        """The first conv's output to the last conv's input."""
        y = apply_plugins(block, 1, block.relu(block.norm1(y)))
        if hasattr(block, 'conv3'):
            y = apply_plugins(block, 2, self.second(block, y))
        return y

    def second(self, block: nn.Module, y: Tensor) -> Tensor:
        """The second conv of a bottleneck with its norm and ReLU."""
        return block.relu(block.norm2(block.conv2(y)))

    def end(self, block: nn.Module, y: Tensor) -> Tensor:
        """The last conv with its norm and plugins."""
        if hasattr(block, 'conv3'):
            return apply_plugins(block, 3, block.norm3(block.conv3(y)))
        return apply_plugins(block, 3, block.norm2(block.conv2(y)))

    def shortcut(self, block: nn.Module, x: Tensor) -> Tensor:
        """The (projected) identity, (N, C', H', W')."""
        return x if block.downsample is None else block.downsample(x)

    def join(self, block: nn.Module, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """ReLU(y + identity). Overwrites y, as upstream does, unless C1 reads it."""
        if hasattr(block, 'drop_path'):
            y = block.drop_path(y)
        if self.source == 'residual':
            return block.relu(y + identity)
        y += identity
        return block.relu(y)

    def mixing_conv(self, block: nn.Module) -> nn.Module:
        """The first conv, ``conv1``."""
        return block.conv1

    def make_read(self, block: nn.Module) -> nn.Module:
        """Build a conv of h like the block's first conv."""
        conv = block.conv1
        return nn.Conv2d(
            self.rla_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            bias=False,
        )

    def block_channels(self, block: nn.Module) -> int:
        """Channels C' of a block's output."""
        return self.last_conv(block).out_channels

    def last_conv(self, block: nn.Module) -> nn.Module:
        """The last conv of a block."""
        return block.conv3 if hasattr(block, 'conv3') else block.conv2


class RLAOverSmallStem(RLAOverResNet):
    """RLA over a ResNet whose stem is a single conv without pooling."""

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to the first stage's input."""
        return self.relu(self.norm1(self.conv1(x)))


class RLAOverRes2Net(RLAOverResNet):
    """RLA over a Res2Net, whose second conv is a hierarchy of narrow convs."""

    def second(self, block: nn.Module, y: Tensor) -> Tensor:
        """The narrow convs; each reads its slice and the output of the one before."""
        slices = torch.split(y, block.width, 1)
        outs: List[Tensor] = []
        for i, (conv, norm) in enumerate(zip(block.convs, block.bns)):
            part = slices[i]
            if outs and block.stage_type == 'normal':
                part = outs[-1] + part
            outs.append(block.relu(norm(conv(part.contiguous()))))
        last = slices[len(outs)]
        if hasattr(block, 'pool'):
            last = block.pool(last)
        return torch.cat((*outs, last), 1)


class RLAOverResNeSt(RLAOverResNet):
    """RLA over a ResNeSt, whose second conv is a split-attention conv."""

    def second(self, block: nn.Module, y: Tensor) -> Tensor:
        """The split-attention conv, which has norms and ReLUs, and the pooling."""
        y = block.conv2(y)
        return block.avd_layer(y) if block.avg_down_stride else y
