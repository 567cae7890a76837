# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Recurrent layer aggregation (RLA): the unit of a stage, and the mixin.

Block t of a stage maps main features x, (N, C, H, W), and the hidden state h,
(N, k, H, W), as follows (Section 3.3, Figure 3, Eq. 11):

    y_t = F_t(concat(x_{t-1}, h_{t-1}))
    x_t = act(y_t + shortcut(x_{t-1}))
    h_t = C3(tanh(BN_t(h_{t-1} + C1(s_t)))),  s_t = y_t

The blocks of a stage share C1 (``compress``, a 1x1 conv) and C3 (``recurrent``, the
3x3 recurrent conv); each block has its own BN_t (``norms``). h_0 is zero.

A conv of a concatenation is the sum of two convs. So F_t keeps the plain block's conv
of x and adds a conv of h to its output: the *read* of h. The main network stays the
plain one, and everything that RLA adds is in the module ``rla``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .checks import check_choice, check_range
from .layers.recurrent import CELLS, RECURRENT_CONVS, build_recurrent
from .pretrained import Fit, WeightsMismatchError, as_pretrained, check_fit
from .wiring import WiringRecord

#: He initialisation by fan-out, as in the main network (Section 4).
INIT_CFG: List[dict] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


@dataclass(frozen=True)
class Integration:
    """How a block's features are integrated into the hidden state (Figure 4).

    Attributes:
        source: What C1 reads, s_t: the block's ``residual`` y_t, its ``output`` x_t
            or its (projected) ``identity``.
        before_recurrence: Whether C1(s_t) is added to h before BN_t, tanh and C3.
            If not, it is added to their result.
    """

    source: str
    before_recurrence: bool


#: Figure 4, Tables 6 and 11. The paper proposes v1. The released code and weights
#: are called v1 too, but compute v3.
INTEGRATIONS: Dict[str, Integration] = {
    'v1': Integration('residual', True),
    'v2': Integration('residual', False),
    'v3': Integration('output', True),
    'v4': Integration('output', False),
    'v5': Integration('identity', True),
    'v6': Integration('identity', False),
}


def last_conv(read: nn.Module) -> nn.Conv2d:
    """The last conv of a read; with its weight at zero the read is zero."""
    return [m for m in read.modules() if isinstance(m, nn.Conv2d)][-1]


class RLAUnit(WiringRecord):
    """The RLA unit of one stage: C1, C3, each block's BN_t and read of h.

    Args:
        reads: The read of each block: a module that maps h, (N, k, H, W), to what is
            added to the output of one of the block's convs. None for no exchange,
            ablation (c).
        in_channels: Channels of each block's output. Blocks of equal width share C1.
        rla_channels (int): Channels k of the hidden state.
        stride (int): Stride of the stage. Before the first update h is average-pooled
            by it. Defaults to 1.
        num_updates (int, optional): Number of updates, from the first block on.
            A detector needs one less than there are blocks in its last stage, as
            nothing reads the last state. Defaults to None, one per block.
        integration (str): One of :data:`INTEGRATIONS`. Defaults to 'v1'.
        cell (str): 'conv', 'post-act', 'convlstm' or 'convgru'. Defaults to 'conv'.
        shared (bool): Whether blocks share C1 and C3; False is ablation (b).
            Defaults to True.
        recurrent_conv (str): Kind of C3: 'full', 'depthwise' or 'separable'.
            Defaults to 'full'.
        norm_cfg (dict, optional): Config of BN_t. Defaults to None, BN.

    Raises:
        ValueError: For an unknown ``integration``, ``cell`` or ``recurrent_conv``,
            or an integration that the cell cannot have.
    """

    def __init__(
        self,
        reads: Optional[Sequence[nn.Module]],
        in_channels: Sequence[int],
        rla_channels: int,
        stride: int = 1,
        num_updates: Optional[int] = None,
        integration: str = 'v1',
        cell: str = 'conv',
        shared: bool = True,
        recurrent_conv: str = 'full',
        norm_cfg: Optional[dict] = None,
    ) -> None:
        check_choice('integration', integration, INTEGRATIONS)
        check_choice('cell', cell, CELLS)
        check_choice('recurrent_conv', recurrent_conv, RECURRENT_CONVS)
        super().__init__(
            f'integration={integration!r}, cell={cell!r}',
            'build the backbone with {found}',
            INIT_CFG,
        )
        self.before_recurrence = INTEGRATIONS[integration].before_recurrence
        if cell != 'conv' and not self.before_recurrence:
            raise ValueError(
                f"integration={integration!r} needs cell='conv', got {cell!r}; "
                'v1, v3 and v5 take every cell'
            )
        self.cell = cell
        self.rla_channels = rla_channels
        self.num_blocks = len(in_channels)
        self.num_updates = self.num_blocks if num_updates is None else num_updates
        updates = range(self.num_updates)

        self.read = None if reads is None else ModuleList(reads)
        # A C1 for each width, or for each block.
        inputs = list(in_channels[: self.num_updates])
        widths = list(dict.fromkeys(inputs)) if shared else inputs
        # Which C1 and which C3 block t uses.
        self._compress_of = [
            widths.index(channels) if shared else t for t, channels in enumerate(inputs)
        ]
        self._recurrent_of = [0 if shared else t for t in updates]
        self.compress = ModuleList(
            nn.Conv2d(channels, rla_channels, 1, bias=False) for channels in widths
        )
        self.recurrent = ModuleList(
            build_recurrent(cell, rla_channels, recurrent_conv)
            for _ in range(len(set(self._recurrent_of)))
        )
        self._tied: Tuple[nn.Module, ...] = ()
        #: The read of the last state, in a network that has one (MobileNetV2).
        self.last: Optional[nn.Module] = None
        self.norms = ModuleList(
            build_norm_layer(norm_cfg or dict(type='BN'), rla_channels)[1]
            for _ in updates
        )
        # Rounds sizes up, as strided convs do.
        self.pool = (
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )

    @property
    def state_channels(self) -> int:
        """Channels of the state: k; 2k for a ConvLSTM, whose state is concat(h, c)."""
        return self.rla_channels * (2 if self.cell == 'convlstm' else 1)

    def hidden(self, state: Tensor) -> Tensor:
        """h, (N, k, H, W), of the state."""
        return state[:, : self.rla_channels] if self.cell == 'convlstm' else state

    def read_of(self, t: int, state: Tensor) -> Optional[Tensor]:
        """What block t (from 0) reads of h; None without exchange."""
        return None if self.read is None else self.read[t](self.hidden(state))

    def compress_of(self, t: int) -> nn.Module:
        """C1 of block t (from 0)."""
        return self.compress[self._compress_of[t]]

    def recurrent_of(self, t: int) -> nn.Module:
        """C3, or the LSTM or GRU cell, of block t (from 0)."""
        return self._tied[0] if self._tied else self.recurrent[self._recurrent_of[t]]

    def tie_recurrent(self, recurrent: nn.Module) -> None:
        """Use the C3 of another unit instead of an own one."""
        # In a tuple it is not registered a second time.
        self.recurrent, self._tied = ModuleList(), (recurrent,)

    def forward(self, t: int, source: Tensor, state: Tensor) -> Tensor:
        """The next state, h_t, from s_t and h_{t-1}.

        Args:
            t: Index of the block in its stage (from 0).
            source: s_t, (N, C, H, W).
            state: h_{t-1}, (N, k, H, W), not yet pooled if t is 0. Zeros of shape
                (N, k, 1, 1) will do for h_0. For a ConvLSTM concat(h, c), 2k channels.

        Returns:
            h_t, (N, k, H, W); of a block without an update the state that came in.
        """
        if t >= self.num_updates:
            return state
        return self.advance(t, self.compress_of(t)(source), state)

    def advance(self, t: int, update: Tensor, h: Tensor) -> Tensor:
        """The next state from C1(s_t), (N, k, H, W), and h_{t-1}."""
        norm, c3 = self.norms[t], self.recurrent_of(t)
        if t == 0:
            h = self.pool(h)
        if self.cell == 'conv' and self.before_recurrence:
            return c3(torch.tanh(norm(update + h)))  # Figure 3
        if self.cell == 'post-act':
            return torch.tanh(norm(c3(update + h)))
        if self.cell == 'conv':
            # h_0 may be (N, k, 1, 1), but C3 needs a map: BN_t(0) is not zero.
            return c3(torch.tanh(norm(torch.zeros_like(update) + h))) + update
        return c3(torch.tanh(norm(update)), h)

    def start_from_plain(self) -> None:
        """Zero the last conv of each read: blocks then compute what plain ones do."""
        for read in [*(self.read or ()), *([self.last] if self.last else [])]:
            nn.init.zeros_(last_conv(read).weight)

    def _load_from_state_dict(
        self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if self.num_updates < self.num_blocks:
            # Weights of a classifier have one update more than a detector; its
            # modules come last in their lists.
            for child in ('compress', 'recurrent', 'norms'):
                built, start = len(getattr(self, child)), f'{prefix}{child}.'
                for name in [n for n in state_dict if n.startswith(start)]:
                    if int(name[len(start) :].split('.')[0]) >= built:
                        del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class RLA(BaseModule):
    """Mixin that runs the blocks of a plain backbone with a hidden state.

    ``class RLAResNet(RLA, ResNet)`` takes the arguments of ``ResNet`` and those below.
    It has the parameters of ``ResNet`` under their names, and those of the RLA units
    under ``rla``. If it loads the weights of the plain network, its reads start at
    zero and its outputs equal the plain network's.

    A family defines how its blocks are taken apart: :meth:`branch`, :meth:`join`,
    :meth:`make_read` and ``forward_stem``.

    Args:
        *args: Arguments of the plain backbone.
        rla_channels (int): Channels k of the hidden state; 0 is the plain network.
            Defaults to 32.
        integration (str): What C1 reads and where its output is added (Figure 4), one
            of :data:`INTEGRATIONS`. 'v1' is the paper's, the released weights need
            'v3'. Defaults to 'v1'.
        cell (str): The recurrent cell: 'conv' (the paper's), 'post-act' (ablation
            (e)), 'convlstm' (ablation (d)) or 'convgru'. Defaults to 'conv'.
        shared (bool): Whether the blocks of a stage share C1 and C3; False is
            ablation (b). Defaults to True.
        exchange (bool): Whether blocks read the hidden state; False is ablation (c).
            Defaults to True.
        return_hidden (bool): Whether the outputs end with the last hidden state:
            True for a classifier (:class:`RLANeck` takes it), False for a detector,
            whose neck takes main features alone. With False the last update, which
            nothing would read, is neither computed nor built. Defaults to False.
        freeze_rla (bool): Whether ``frozen_stages`` and ``norm_eval`` apply to the RLA
            units too: for weights that were pretrained with RLA. With False all
            units are trained, and BN_t uses batch statistics. Defaults to False.
        rla_norm_cfg (dict, optional): Config of BN_t and of norms in the reads.
            Defaults to None, ``norm_cfg`` with learnable parameters.
        **kwargs: Arguments of the plain backbone.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.
    """

    #: Maps images (N, in_channels, H, W) to the input of the first block.
    forward_stem: Callable[[Tensor], Tensor]

    init_cfg: Any
    #: Integrations that the blocks of the family can have.
    integrations: Sequence[str] = tuple(INTEGRATIONS)

    def __init__(
        self,
        *args: Any,
        rla_channels: int = 32,
        integration: str = 'v1',
        cell: str = 'conv',
        shared: bool = True,
        exchange: bool = True,
        return_hidden: bool = False,
        freeze_rla: bool = False,
        rla_norm_cfg: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        check_range('rla_channels', rla_channels, 0, 4096)
        check_choice('integration', integration, self.integrations)
        check_choice('cell', cell, CELLS)
        for name, value in (
            ('shared', shared),
            ('exchange', exchange),
            ('return_hidden', return_hidden),
            ('freeze_rla', freeze_rla),
        ):
            check_choice(name, value, (True, False))  # 'no' would count as True
        if return_hidden and not rla_channels:
            raise ValueError('return_hidden=True needs rla_channels of at least 1')
        super().__init__(*args, **kwargs)
        self.rla_channels = rla_channels
        self.integration = integration
        self.cell = cell
        self.shared = shared
        self.exchange = exchange
        self.return_hidden = return_hidden
        self.freeze_rla = freeze_rla
        self.rla_norm_cfg = rla_norm_cfg or _learnable(self.norm_cfg, rla_channels)
        self.source = INTEGRATIONS[integration].source
        self.rla: Any = None  # ModuleList of units; None for the plain network
        # Without exchange only a classifier reads the state.
        if rla_channels and (exchange or self.reads_last_state):
            self.rla = self.make_units()
            self._register_first('rla')
        # After loading, mmpretrain zeroes the last norms unless init_cfg is a dict
        # of type 'Pretrained'; MMEngine loads from other forms as well.
        init_cfg, self._is_pretrained = as_pretrained(self.init_cfg)
        self.init_cfg = init_cfg
        if self._is_pretrained:
            self.zero_init_residual = False
        self._fit: Optional[Fit] = None
        if freeze_rla:
            self._freeze_stages()

    # What a family defines

    def layer_names(self) -> List[str]:
        """Names of the layers of blocks, up to the last one in ``out_indices``."""
        return self.res_layers[: max((0, *self.out_indices)) + 1]

    def unit_layers(self) -> List[List[int]]:
        """Indices of the layers of each unit: layers of one resolution share it."""
        return [[i] for i in range(len(self.layer_names()))]

    def stage_stride(self, i: int) -> int:
        """Stride of layer i."""
        return self.strides[i]

    @property
    def reads_last_state(self) -> bool:
        """Whether the state after the last block is used."""
        return self.return_hidden

    def branch(
        self, block: nn.Module, x: Tensor, read: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual y_t and the (projected) identity of a block.

        Args:
            block: The block.
            x: Main features (N, C, H, W).
            read: What the block reads of h, added to the output of
                :meth:`mixing_conv`; None to read nothing.

        Returns:
            Residual and identity, (N, C', H', W') each; the identity is None in a
            block without one.
        """
        return block.branch(x, read)

    def join(self, block: nn.Module, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The block's output x_t from residual and identity, (N, C', H', W')."""
        return block.join(y, identity)

    def mixing_conv(self, block: nn.Module) -> nn.Module:
        """The conv whose output the read is added to: the first to mix channels."""
        return block.mixing_conv

    def make_read(self, block: nn.Module) -> nn.Module:
        """Build a block's read: h, (N, k, H, W), to what is added in the block."""
        return block.make_read(self.rla_channels, self.rla_norm_cfg)

    def block_channels(self, block: nn.Module) -> int:
        """Channels C' of a block's output."""
        return block.out_channels

    def zero_state(self, x: Tensor) -> Tensor:
        """h_0: zeros of shape (N, k, 1, 1), which broadcast, to save a map."""
        return x.new_zeros(x.shape[0], self.state_channels, 1, 1)

    def finish(self, x: Tensor) -> Tensor:
        """The last block's output to the network's, (N, C, H, W); by default itself."""
        return x

    # The network

    @property
    def state_channels(self) -> int:
        """Channels of the state, see :attr:`RLAUnit.state_channels`; 0 without RLA."""
        return self.rla[0].state_channels if self.rla else 0

    @property
    def layers_of_blocks(self) -> List[nn.Sequential]:
        """The layers of blocks, in order."""
        return [getattr(self, name) for name in self.layer_names()]

    def block_of(self, i: int, t: int) -> nn.Module:
        """Block t of layer i."""
        return getattr(self, self.layer_names()[i])[t]

    def make_units(self, **kwargs: Any) -> ModuleList:
        """Build the units, one per stage.

        Args:
            **kwargs: Further arguments of :class:`RLAUnit`.
        """
        layers, units = self.layers_of_blocks, ModuleList()
        stages = self.unit_layers()
        # For each layer its unit, and the index of its first block in that unit.
        self._place: List[Tuple[int, int]] = []
        for stage in stages:
            blocks: List[nn.Module] = []
            for i in stage:
                self._place.append((len(units), len(blocks)))
                blocks += layers[i]
            is_last = stage is stages[-1]
            unit = RLAUnit(
                [self.make_read(block) for block in blocks] if self.exchange else None,
                [self.block_channels(block) for block in blocks],
                self.rla_channels,
                stride=self.stage_stride(stage[0]),
                num_updates=len(blocks) - int(is_last and not self.reads_last_state),
                integration=self.integration,
                cell=self.cell,
                shared=self.shared,
                norm_cfg=self.rla_norm_cfg,
                **kwargs,
            )
            units.append(unit)
        return units

    def step(self, i: int, t: int, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:
        """Run block t of layer i and its unit: x_t and h_t from x_{t-1} and h_{t-1}."""
        block = self.block_of(i, t)
        if self.rla is None:
            return self.join(block, *self.branch(block, x, None)), h
        unit, t = self.unit_of(i, t)
        y, identity = self.branch(block, x, unit.read_of(t, h))
        x = self.join(block, y, identity)
        source = dict(residual=y, output=x, identity=identity)[self.source]
        return x, unit(t, source, h)

    def unit_of(self, i: int, t: int) -> Tuple[RLAUnit, int]:
        """The unit of block t of layer i, and the block's index in its stage."""
        stage, first = self._place[i]
        return self.rla[stage], first + t

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Compute the outputs at ``out_indices``.

        Args:
            x: Images (N, in_channels, H, W).

        Returns:
            Main features (N, C, H, W) of each index; with ``return_hidden`` the last
            hidden state, (N, k, H, W), follows them.
        """
        x = self.forward_stem(x)
        h = self.zero_state(x)
        outs = []
        for i, layer in enumerate(self.layers_of_blocks):
            for t in range(len(layer)):
                if self.with_cp and torch.is_grad_enabled():
                    x, h = checkpoint(self.step, i, t, x, h, use_reentrant=False)
                else:
                    x, h = self.step(i, t, x, h)
            if i + 1 == len(self.layers_of_blocks):
                x = self.finish(x)
            if i in self.out_indices:
                outs.append(x)
        outs += self.last_outputs(x, h)
        return tuple(outs)

    def last_outputs(self, x: Tensor, state: Tensor) -> List[Tensor]:
        """The outputs that follow those of the layers of blocks."""
        return [self.rla[-1].hidden(state)] if self.return_hidden else []

    # Modes and weights

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        units = self._modules.get('rla')
        if units is None or not self.freeze_rla:
            return
        for i, (stage, _) in enumerate(self._place):
            if i < self.frozen_stages:
                units[stage].eval()
                units[stage].requires_grad_(False)

    def train(self, mode: bool = True) -> RLA:
        """Set the mode; frozen stages and, with ``norm_eval``, norms stay in eval mode.

        For the RLA units this holds only with ``freeze_rla``.

        Args:
            mode (bool): True for training. Defaults to True.

        Returns:
            The backbone.
        """
        super().train(mode)
        units = self._modules.get('rla')
        if units is not None and not self.freeze_rla:
            units.train(mode)
        return self

    def init_weights(self) -> None:
        """Draw the weights and load those that ``init_cfg`` names.

        Raises:
            WeightsMismatchError: If ``init_cfg`` names weights, but they are those of
                another network or none were loaded.
        """
        expected = self._is_pretrained and not self.is_init
        self._fit = None
        super().init_weights()
        if expected:
            name = type(self).__name__
            if self._fit is None:
                raise WeightsMismatchError(
                    f'{name}: init_cfg={self.init_cfg!r} loaded no weights'
                )
            if self._fit.refusal:
                raise WeightsMismatchError(
                    f'{name}: init_cfg={self.init_cfg!r}: {self._fit.refusal}'
                )

    def _load_from_state_dict(
        self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        given = {
            name[len(prefix) :]: value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        self._fit = check_fit(self, given)
        if self.rla is not None and self._fit.is_plain:
            for unit in self.rla:
                unit.start_from_plain()
        self._fit.log(type(self).__name__)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _register_first(self, name: str) -> None:
        """Move a module to the front: Grad-CAM tools take the last norm there is."""
        for other in [key for key in self._modules if key != name]:
            self._modules[other] = self._modules.pop(other)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Each block counts as a layer. BN_t and the read of h belong to their block, C1
        and C3 to the last block of their stage.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): Prefix of the backbone's parameters. Defaults to ''.

        Returns:
            The depth, from 0 for the stem, and the number of layers.
        """
        names = self.layer_names()
        blocks = [len(layer) for layer in self.layers_of_blocks]
        starts = [sum(blocks[:i]) for i in range(len(blocks))]
        num_layers = sum(blocks) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split('.')
        if parts[0] in names:
            i = names.index(parts[0])
            return starts[i] + int(parts[1]) + 1, num_layers
        if parts[0] == 'rla':
            own = [
                i for i, (stage, _) in enumerate(self._place) if stage == int(parts[1])
            ]
            first = starts[own[0]]
            if parts[2] in ('norms', 'read'):
                return first + int(parts[3]) + 1, num_layers
            return first + sum(blocks[i] for i in own), num_layers
        is_stem = list(self._modules).index(parts[0]) < list(self._modules).index(
            names[0]
        )
        return (0 if is_stem else num_layers - 1), num_layers


def _learnable(norm_cfg: dict, channels: int) -> dict:
    """``norm_cfg`` with learnable parameters and groups that divide ``channels``."""
    cfg = dict(norm_cfg, requires_grad=True)
    if 'num_groups' in cfg:
        groups = min(cfg['num_groups'], channels or 1)
        while channels % groups:
            groups -= 1
        cfg['num_groups'] = groups
    return cfg
