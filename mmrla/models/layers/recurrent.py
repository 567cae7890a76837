# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What recurs along depth: C3 of Eq. 11, and the cells of the ablations."""

import torch
from torch import Tensor, nn

from ..checks import check_choice

#: The paper's ConvRNN and its ablations (e), (d); ConvGRU is the released code's.
CELLS = ('conv', 'post-act', 'convlstm', 'convgru')

#: Kinds of the recurrent 3x3 conv C3.
RECURRENT_CONVS = ('full', 'depthwise', 'separable')


class ConvLSTMCell(nn.Module):
    """ConvLSTM without bias, gates in the order i, f, o, g (Figure 6).

    Args:
        channels (int): Channels k of input, hidden state and cell state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Next state, h and c side by side (N, 2k, H, W), of x, (N, k, H, W)."""
        h, c = state.chunk(2, dim=1)
        h = torch.zeros_like(x) + h  # h_0 may come as zeros of shape (N, k, 1, 1)
        i, f, o, g = self.gates(torch.cat((x, h), dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), dim=1)


class ConvGRUCell(nn.Module):
    """ConvGRU with bias and group norm, gates in the order r, u.

    Args:
        channels (int): Channels k of input and hidden state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.reset_norm = nn.GroupNorm(1, channels, eps=1e-6)
        self.update_norm = nn.GroupNorm(1, channels, eps=1e-6)
        self.candidate = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.candidate_norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Next h of the input x; both (N, k, H, W)."""
        h = torch.zeros_like(x) + h  # h_0 may come as zeros of shape (N, k, 1, 1)
        r, u = self.gates(torch.cat((x, h), dim=1)).chunk(2, dim=1)
        r = torch.sigmoid(self.reset_norm(r))
        u = torch.sigmoid(self.update_norm(u))
        candidate = self.candidate(torch.cat((x, r * h), dim=1))
        return u * h + (1 - u) * torch.tanh(self.candidate_norm(candidate))


def build_recurrent(cell: str, channels: int, kind: str = 'full') -> nn.Module:
    """The module that recurs along depth: C3, or an LSTM or GRU cell.

    Args:
        cell: One of :data:`CELLS`.
        channels: Channels k of the hidden state.
        kind: One of :data:`RECURRENT_CONVS`; for the cells ``conv`` and
            ``post-act``.

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
