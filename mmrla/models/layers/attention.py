# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Attention modules of the paper's tables, registered as plugin layers.

Each maps (N, C, H, W) to the same shape. Use them in the ``plugins`` of a backbone,
mmdet's ResNet included: ``dict(cfg=dict(type='ECALayer'), position='after_conv3')``.
"""

import math
from typing import Optional

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_odd, check_positive


class ChannelAttention(BaseModule):
    """Base of attention that scales each channel."""

    def scale(self, x: Tensor) -> Tensor:
        """The factors, (N, C), for the channels of x, (N, C, H, W)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, C, H, W), times the factors."""
        return x * self.scale(x)[:, :, None, None]


@MODELS.register_module()
class SELayer(ChannelAttention):
    """Squeeze-and-excitation (Hu et al. 2018): two linear layers without bias.

    Args:
        in_channels (int): Channels C.
        ratio (int): Divides C for the channels of the hidden layer. Defaults to 16.
        init_cfg (dict, optional): As in BaseModule. Defaults to None.

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
        """The factors, (N, C), for the channels of x, (N, C, H, W)."""
        weight = torch.relu(self.fc1(x.mean((2, 3))))
        return torch.sigmoid(self.fc2(weight))


@MODELS.register_module()
class ECALayer(ChannelAttention):
    """Efficient channel attention (Wang et al. 2020): a 1-D conv of channel means.

    Args:
        in_channels (int): Channels C.
        kernel_size (int, optional): Kernel size of the conv, odd. Defaults to None: it
            grows with log2(C) as in ECA-Net, 5, 5, 5 and 7 in the four stages of a
            ResNet-50.
        init_cfg (dict, optional): As in BaseModule. Defaults to None.

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
        """The factors, (N, C), for the channels of x, (N, C, H, W)."""
        weight = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return torch.sigmoid(weight)


@MODELS.register_module()
class CBAM(BaseModule):
    """Convolutional block attention (Woo et al. 2018): of channels, then of positions.

    Args:
        in_channels (int): Channels C.
        ratio (int): Divides C for the channels of the hidden layer. Defaults to 16.
        kernel_size (int): Kernel size of the spatial attention, odd. Defaults to 7.
        init_cfg (dict, optional): As in BaseModule. Defaults to None.

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
        """x, (N, C, H, W), scaled by channel and then by position."""
        weight = self._mlp(x.mean((2, 3))) + self._mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(weight)[:, :, None, None]
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), dim=1)
        return x * torch.sigmoid(self.conv(pooled))
