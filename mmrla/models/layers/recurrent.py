# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The recurrent conv C3 of Eq. 11, and the cells of the ablations."""

import torch
from torch import Tensor, nn

from ..checks import check_choice

#: The paper's cell, its ablations (e) and (d), and the released code's ConvGRU.
CELLS = ('conv', 'post-act', 'convlstm', 'convgru')

#: Kinds of C3: 3x3, depthwise 3x3, depthwise 3x3 followed by 1x1.
RECURRENT_CONVS = ('full', 'depthwise', 'separable')


class ConvLSTMCell(nn.Module):
    """ConvLSTM without bias (ablation (d), Figure 6); gates in the order i, f, o, g.

    Args:
        channels (int): Channels k of the input, the hidden state and the cell state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state, concat(h, c), from the input x and the state.

        Args:
            x: Input (N, k, H, W).
            state: concat(h, c), (N, 2k, H, W), or zeros of shape (N, 2k, 1, 1).

        Returns:
            The next state, (N, 2k, H, W).
        """
        h, c = state.chunk(2, dim=1)
        h = torch.zeros_like(x) + h  # a map, if h_0 is (N, k, 1, 1)
        i, f, o, g = self.gates(torch.cat((x, h), dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), dim=1)


class ConvGRUCell(nn.Module):
    """ConvGRU with bias and group norm; gates in the order r, u.

    Args:
        channels (int): Channels k of the input and the hidden state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.reset_norm = nn.GroupNorm(1, channels, eps=1e-6)
        self.update_norm = nn.GroupNorm(1, channels, eps=1e-6)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.candidate_norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """The next h, (N, k, H, W), from the input x and h.

        Args:
            x: Input (N, k, H, W).
            h: Hidden state (N, k, H, W), or zeros of shape (N, k, 1, 1).
        """
        h = torch.zeros_like(x) + h  # a map, if h_0 is (N, k, 1, 1)
        r, u = self.gates(torch.cat((x, h), dim=1)).chunk(2, dim=1)
        r = torch.sigmoid(self.reset_norm(r))
        u = torch.sigmoid(self.update_norm(u))
        candidate = self.candidate(torch.cat((x, r * h), dim=1))
        return u * h + (1 - u) * torch.tanh(self.candidate_norm(candidate))


def build_recurrent(cell: str, channels: int, kind: str = 'full') -> nn.Module:
    """Build the module that recurs along depth: C3, or an LSTM or GRU cell.

    Args:
        cell (str): One of :data:`CELLS`.
        channels (int): Channels k of the hidden state.
        kind (str): Kind of C3, one of :data:`RECURRENT_CONVS`; LSTM and GRU ignore it.
            Defaults to 'full'.

    Raises:
        ValueError: For an unknown cell or kind.
    """
    check_choice('cell', cell, CELLS)
    check_choice('recurrent_conv', kind, RECURRENT_CONVS)
    if cell == 'convlstm':
        return ConvLSTMCell(channels)
    if cell == 'convgru':
        return ConvGRUCell(channels)
    groups = 1 if kind == 'full' else channels
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
    if kind != 'separable':
        return conv
    return nn.Sequential(conv, nn.Conv2d(channels, channels, 1, bias=False))
