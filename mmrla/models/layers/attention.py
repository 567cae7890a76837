# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Attention modules of the paper's tables, registered as plugin layers.

Each maps (N, C, H, W) to the same shape. ``plugins`` of mmdet's ResNet takes them,
``dict(cfg=dict(type='ECALayer'), position='after_conv3')``, and those of ours.
"""

import math
from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_odd, check_positive


class ChannelAttention(BaseModule):
    """Attention that scales channels; a subclass says by how much."""

    def scale(self, x: Tensor) -> Tensor:
        """Weights (N, C) of the channels of x, (N, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) scaled by a weight for each image and channel."""
        return x * self.scale(x)[:, :, None, None]


@MODELS.register_module()
class SELayer(ChannelAttention):
    """Squeeze-and-excitation: two linear layers without bias.

    Args:
        in_channels (int): Channels C.
        ratio (int): Reduction of the hidden layer. Defaults to 16.

    Raises:
        ValueError: If ``in_channels`` or ``ratio`` is not positive.
    """

    _abbr_ = 'se'

    def __init__(
        self, in_channels: int, ratio: int = 16, init_cfg: Optional[dict] = None
    ) -> None:
        super().__init__(init_cfg)
        check_positive('in_channels', in_channels)
        check_positive('ratio', ratio)
        hidden = max(in_channels // ratio, 1)
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, in_channels, bias=False)

    def scale(self, x: Tensor) -> Tensor:
        """Weights (N, C) of the channels of x, (N, C, H, W)."""
        weight = torch.relu(self.fc1(x.mean((2, 3))))
        return torch.sigmoid(self.fc2(weight))


@MODELS.register_module()
class ECALayer(ChannelAttention):
    """Efficient channel attention: a 1-D conv across the channels' means.

    Args:
        in_channels (int): Channels C.
        kernel_size (int, optional): Odd kernel of the conv. By default it
            grows with log2(C), as in ECA-Net: 5, 5, 5 and 7 for the four
            stages of a ResNet-50.

    Raises:
        ValueError: If ``kernel_size`` is even or not positive.
    """

    _abbr_ = 'eca'

    def __init__(
        self,
        in_channels: int,
        kernel_size: Optional[int] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_positive('in_channels', in_channels)
        if kernel_size is None:
            kernel_size = int((math.log2(in_channels) + 1) / 2) | 1
        check_odd('kernel_size', kernel_size)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def scale(self, x: Tensor) -> Tensor:
        """Weights (N, C) of the channels of x, (N, C, H, W)."""
        weight = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return torch.sigmoid(weight)


@MODELS.register_module()
class CBAM(BaseModule):
    """Convolutional block attention: channel, then spatial attention.

    Args:
        in_channels (int): Channels C.
        ratio (int): Reduction of the channel attention. Defaults to 16.
        kernel_size (int): Odd kernel of the spatial attention. Defaults to 7.

    Raises:
        ValueError: If an argument is not positive or ``kernel_size`` is even.
    """

    _abbr_ = 'cbam'

    def __init__(
        self,
        in_channels: int,
        ratio: int = 16,
        kernel_size: int = 7,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        check_positive('in_channels', in_channels)
        check_positive('ratio', ratio)
        check_odd('kernel_size', kernel_size)
        hidden = max(in_channels // ratio, 1)
        self.fc1 = nn.Linear(in_channels, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, in_channels, bias=False)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def _mlp(self, pooled: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(pooled)))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) scaled by channel and then by position."""
        weight = self._mlp(x.mean((2, 3))) + self._mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(weight)[:, :, None, None]
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(pooled))
