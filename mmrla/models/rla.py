# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Recurrent layer aggregation (RLA): the unit that carries the hidden state.

The recurrence of the paper (Section 3.3, Figure 3) is written here and nowhere
else. For block t of a stage, with main features x of shape (N, C, H, W) and
hidden state h of shape (N, k, H, W):

    y_t = F_t(concat(x_{t-1}, h_{t-1}))                    the block
    x_t = act(y_t + shortcut(x_{t-1}))                     the block
    h_t = C3(tanh(BN_t(h_{t-1} + C1(s_t)))),  s_t = y_t    the RLA unit

C1 (``compress``, 1x1) and C3 (``recurrent``, 3x3) are shared by the blocks of
a stage, BN_t (``norms``) is the block's own. h_0 is zero.
"""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from torch import Tensor, nn

from ..checkpoints.wiring import WiringRecord
from .checks import check_choice
from .conv_norm import is_plain_conv

#: What a unit carries from block to block: (h, ) or, for ConvLSTM, (h, c), all
#: of shape (N, rla_channels, H, W). None is the zero state.
State = Optional[Tuple[Tensor, ...]]


@dataclass(frozen=True)
class Integration:
    """How the main network is integrated into the hidden state (Figure 4).

    Attributes:
        source: What is summarised: the block's ``residual`` y_t, its ``output``
            x_t or its (projected) ``identity``.
        before_recurrence: Whether C1(source) is added to h before BN_t, tanh
            and C3, or to their result.
    """

    source: str
    before_recurrence: bool


#: Figure 4 and Tables 6 and 11. v1 is the paper's proposal; the released code
#: and weights, called v1 there too, compute v3.
INTEGRATIONS: Dict[str, Integration] = {
    'v1': Integration('residual', True),
    'v2': Integration('residual', False),
    'v3': Integration('output', True),
    'v4': Integration('output', False),
    'v5': Integration('identity', True),
    'v6': Integration('identity', False),
}

#: The paper's ConvRNN and its ablations (d), (e); ConvGRU is the released code's.
CELLS = ('conv', 'post-act', 'convlstm', 'convgru')

#: Kinds of the recurrent 3x3 conv C3.
RECURRENT_CONVS = ('full', 'depthwise', 'separable')


def concat_hidden(x: Tensor, h: Optional[Tensor], channels: int) -> Tensor:
    """``concat(x, h)``, (N, C + channels, H, W), with zeros for a None h.

    Args:
        x: Main features (N, C, H, W).
        h: Hidden state (N, channels, H, W), or None for the zero state.
        channels: Channels of h that the block reads; 0 leaves x as it is.
    """
    if not channels:
        return x
    if h is None:
        # Keeps the memory format of x, which a cat with new zeros would not.
        return F.pad(x, (0, 0, 0, 0, 0, channels))
    return torch.cat((x, h), dim=1)


def conv_with_hidden(conv: nn.Module, x: Tensor, h: Optional[Tensor]) -> Tensor:
    """``conv(concat(x, h))``, without the concatenation where that is possible.

    A copy of x would be made, and kept for the backward pass. For the zero
    state only the part that reads x is computed.

    Args:
        conv: A convolution of C + k input channels; k may be 0.
        x: Main features (N, C, H, W).
        h: Hidden state (N, k, H, W), or None for zero.
    """
    hidden_channels = conv.in_channels - x.shape[1]
    if not hidden_channels:
        return conv(x)
    if not is_plain_conv(conv):
        return conv(concat_hidden(x, h, hidden_channels))
    # One split, not two slices: its gradient is one concatenation.
    of_x, of_h = conv.weight.split((x.shape[1], hidden_channels), dim=1)
    y = F.conv2d(x, of_x, conv.bias, conv.stride, conv.padding, conv.dilation)
    if h is None:
        return y
    return y.add_(F.conv2d(h, of_h, None, conv.stride, conv.padding, conv.dilation))


class ConvLSTMCell(nn.Module):
    """ConvLSTM without bias, gates in the order i, f, o, g (Figure 6).

    Args:
        channels (int): Channels k of input, hidden state and cell state.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 4 * channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tuple[Tensor, Tensor]:
        """Next (h, c) of the input x; all (N, k, H, W)."""
        i, f, o, g = self.gates(torch.cat((x, h), dim=1)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


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
        r, u = self.gates(torch.cat((x, h), dim=1)).chunk(2, dim=1)
        r = torch.sigmoid(self.reset_norm(r))
        u = torch.sigmoid(self.update_norm(u))
        candidate = self.candidate(torch.cat((x, r * h), dim=1))
        return u * h + (1 - u) * torch.tanh(self.candidate_norm(candidate))


def build_recurrent(
    cell: str, channels: int, kind: str = 'full', conv_cfg: Optional[dict] = None
) -> nn.Module:
    """The module that recurs along depth: C3, or an LSTM or GRU cell.

    Args:
        cell: One of :data:`CELLS`.
        channels: Channels k of the hidden state.
        kind: One of :data:`RECURRENT_CONVS`; for the cells ``conv`` and
            ``post-act``.
        conv_cfg: Config of the conv layer.

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
    conv = build_conv_layer(
        conv_cfg, channels, channels, 3, padding=1, groups=groups, bias=False
    )
    if kind != 'separable':
        return conv
    return nn.Sequential(
        conv, build_conv_layer(conv_cfg, channels, channels, 1, bias=False)
    )


class RLAUnit(WiringRecord):
    """The recurrent layer aggregation unit of one stage (Section 3.3).

    Args:
        in_channels: Channels of each block's output, in order. Blocks of one
            width share one C1.
        rla_channels (int): Channels k of the hidden state.
        stride (int): Stride of the stage's first block; h is average-pooled by
            it before the first update. Defaults to 1.
        num_updates (int, optional): Updates to compute, the first ones;
            all blocks' if None. A detector needs no state after the last block.
        integration (str): One of :data:`INTEGRATIONS`. Defaults to 'v1'.
        cell (str): One of :data:`CELLS`. Defaults to 'conv'.
        shared (bool): Whether blocks share C1 and C3; False is ablation (b).
        recurrent_conv (str): Kind of C3, one of :data:`RECURRENT_CONVS`.
        tied_recurrent (nn.Module, optional): A C3 that belongs to another unit
            and is used here too (MobileNetV2 as released).
        conv_cfg (dict, optional): Config of C1 and C3.
        norm_cfg (dict, optional): Config of BN_t. Defaults to BN.

    Raises:
        ValueError: For an unknown integration, cell or kind of C3, or an
            integration that the cell does not have.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        rla_channels: int,
        stride: int = 1,
        num_updates: Optional[int] = None,
        integration: str = 'v1',
        cell: str = 'conv',
        shared: bool = True,
        recurrent_conv: str = 'full',
        tied_recurrent: Optional[nn.Module] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: Optional[dict] = None,
    ) -> None:
        check_choice('integration', integration, INTEGRATIONS)
        super().__init__(
            f'integration={integration!r}, cell={cell!r}',
            'build the backbone with {found}',
        )
        self.integration = INTEGRATIONS[integration]
        if cell != 'conv' and not self.integration.before_recurrence:
            raise ValueError(
                f"integration={integration!r} needs cell='conv', got {cell!r}; "
                'v1, v3 and v5 take every cell'
            )
        self.cell = cell
        self.num_blocks = len(in_channels)
        self.num_updates = self.num_blocks if num_updates is None else num_updates
        self.rla_channels = rla_channels
        updates = range(self.num_updates)

        # Which C1 and which C3 block t uses: its own, or that of its width.
        widths = list(dict.fromkeys(in_channels))
        self._compress_of: List[int] = [
            widths.index(in_channels[t]) if shared else t for t in updates
        ]
        self._recurrent_of: List[int] = [0 if shared else t for t in updates]
        num_compress = len(set(self._compress_of))
        self.compress = nn.ModuleList(
            build_conv_layer(
                conv_cfg, channels, rla_channels, kernel_size=1, bias=False
            )
            for channels in (widths if shared else in_channels)[:num_compress]
        )
        # A tuple, so that the module is not registered a second time.
        self._tied = () if tied_recurrent is None else (tied_recurrent,)
        num_recurrent = 0 if self._tied else len(set(self._recurrent_of))
        self.recurrent = nn.ModuleList(
            build_recurrent(cell, rla_channels, recurrent_conv, conv_cfg)
            for _ in range(num_recurrent)
        )
        self.norms = nn.ModuleList(
            build_norm_layer(norm_cfg or dict(type='BN'), rla_channels)[1]
            for _ in updates
        )
        # Strided convs round sizes up, so does the pooling.
        self.pool = (
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )

    def recurrent_module(self, t: int) -> nn.Module:
        """C3, or the cell, of block t (from 0)."""
        return self._tied[0] if self._tied else self.recurrent[self._recurrent_of[t]]

    def forward(
        self,
        t: int,
        residual: Tensor,
        identity: Optional[Tensor],
        output: Tensor,
        state: State,
        update: Optional[Tensor] = None,
    ) -> State:
        """The state after block t of the stage (from 0).

        Args:
            t: Index of the block in its stage.
            residual: y_t, (N, C, H, W).
            identity: The block's (projected) identity, of the same shape.
            output: x_t, of the same shape.
            state: The state before the block; before pooling if t is 0.
            update: C1 of what is summarised, if the block has computed it.
        """
        if update is None:
            summary = self.select(residual, identity, output)
            update = self.compress_module(t)(summary)
        return self.advance(t, update, state)

    def select(
        self, residual: Tensor, identity: Optional[Tensor], output: Tensor
    ) -> Optional[Tensor]:
        """What is summarised of a block, all (N, C, H, W)."""
        sources = dict(residual=residual, identity=identity, output=output)
        return sources[self.integration.source]

    def advance(self, t: int, update: Tensor, state: State) -> State:
        """The state after block t, given what the block adds to it.

        Args:
            t: Index of the block in its stage (from 0).
            update: C1 of what is summarised, (N, k, H, W).
            state: The state before the block; before pooling if t is 0.
        """
        if t == 0 and state is not None:
            state = tuple(self.pool(s) for s in state)
        norm, recurrent = self.norms[t], self.recurrent_module(t)

        if self.cell == 'conv' and self.integration.before_recurrence:
            # Figure 3; h_0 = 0 needs no addition.
            total = update if state is None else state[0] + update
            return (recurrent(norm(total).tanh_()),)
        if self.cell == 'post-act':
            total = update if state is None else state[0] + update
            return (torch.tanh(norm(recurrent(total))),)

        if state is None:
            zeros = torch.zeros_like(update)
            state = (zeros, zeros) if self.cell == 'convlstm' else (zeros,)
        if self.cell == 'conv':
            return (recurrent(torch.tanh(norm(state[0]))) + update,)
        update = torch.tanh(norm(update))
        if self.cell == 'convlstm':
            return recurrent(update, *state)
        return (recurrent(update, *state),)

    def compress_module(self, t: int) -> nn.Module:
        """C1 of block t (from 0)."""
        return self.compress[self._compress_of[t]]

    def _load_from_state_dict(
        self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.num_updates < self.num_blocks:
            # A classifier's weights have an update that a detector does not
            # compute; its modules are the last of their lists.
            for child in ('compress', 'recurrent', 'norms'):
                built, start = len(getattr(self, child)), f'{prefix}{child}.'
                for name in [n for n in state_dict if n.startswith(start)]:
                    if int(name[len(start) :].split('.')[0]) >= built:
                        del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
