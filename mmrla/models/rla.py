# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Recurrent layer aggregation (RLA): the unit of a stage, and the mixin.

For block t of a stage, with main features x of shape (N, C, H, W) and hidden
state h of shape (N, k, H, W) (Section 3.3, Figure 3, Eq. 11):

    y_t = F_t(concat(x_{t-1}, h_{t-1}))
    x_t = act(y_t + shortcut(x_{t-1}))
    h_t = C3(tanh(BN_t(h_{t-1} + C1(s_t)))),  s_t = y_t

C1 (``compress``, 1x1) and C3 (``recurrent``, 3x3) are shared by the blocks of a
stage, BN_t (``norms``) is the block's own, h_0 is zero. A conv of a concatenation
is a sum of two convs, so h enters F_t as an addend behind its first conv that
mixes channels: the *read* of h. The main network then is the plain one, and all
that RLA adds to it is the module ``rla``.
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

#: He initialisation by fan-out, as for the main network (Section 4).
INIT_CFG: List[dict] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


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


def last_conv(read: nn.Module) -> nn.Conv2d:
    """The conv that ends a read of h: the read is linear in its weight."""
    return [m for m in read.modules() if isinstance(m, nn.Conv2d)][-1]


class RLAUnit(WiringRecord):
    """The RLA unit of one stage: C1, BN_t and C3, and the reads of its blocks.

    Args:
        reads: What each block reads of h, a module that maps (N, k, H, W) to the
            addend of the block; None without exchange, ablation (c).
        in_channels: Channels of each block's output, in order. Blocks of one
            width share one C1.
        rla_channels (int): Channels k of the hidden state.
        stride (int): Stride of the stage; h is average-pooled by it before the
            first update. Defaults to 1.
        num_updates (int, optional): Updates to compute, the first ones; all
            blocks' if None. Nothing reads the last state of a detector.
        integration (str): One of :data:`INTEGRATIONS`. Defaults to 'v1'.
        cell (str): 'conv', 'post-act', 'convlstm' or 'convgru'.
        shared (bool): Whether blocks share C1 and C3; False is ablation (b).
        recurrent_conv (str): Kind of C3: 'full', 'depthwise' or 'separable'.
        norm_cfg (dict, optional): Config of BN_t. Defaults to BN.

    Raises:
        ValueError: For an unknown integration, cell or kind of C3, or an
            integration that the cell does not have.
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
        # Which C1 and which C3 block t uses: its own, or that of its width.
        widths = list(dict.fromkeys(in_channels))
        self._compress_of = [
            widths.index(in_channels[t]) if shared else t for t in updates
        ]
        self._recurrent_of = [0 if shared else t for t in updates]
        self.compress = ModuleList(
            nn.Conv2d(channels, rla_channels, 1, bias=False)
            for channels in (widths if shared else in_channels)[
                : len(set(self._compress_of))
            ]
        )
        self.recurrent = ModuleList(
            build_recurrent(cell, rla_channels, recurrent_conv)
            for _ in range(len(set(self._recurrent_of)))
        )
        self._tied: Tuple[nn.Module, ...] = ()
        #: What reads the last state, if the network does (MobileNetV2).
        self.last: Optional[nn.Module] = None
        self.norms = ModuleList(
            build_norm_layer(norm_cfg or dict(type='BN'), rla_channels)[1]
            for _ in updates
        )
        # Strided convs round sizes up, so does the pooling.
        self.pool = (
            nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )

    @property
    def state_channels(self) -> int:
        """Channels of what is carried: h, or h and c side by side of a ConvLSTM."""
        return self.rla_channels * (2 if self.cell == 'convlstm' else 1)

    def hidden(self, state: Tensor) -> Tensor:
        """h, (N, k, H, W), of what is carried."""
        return state[:, : self.rla_channels] if self.cell == 'convlstm' else state

    def read_of(self, t: int, state: Tensor) -> Optional[Tensor]:
        """The addend of block t (from 0); None without exchange."""
        return None if self.read is None else self.read[t](self.hidden(state))

    def compress_of(self, t: int) -> nn.Module:
        """C1 of block t (from 0)."""
        return self.compress[self._compress_of[t]]

    def recurrent_of(self, t: int) -> nn.Module:
        """C3, or the cell, of block t (from 0)."""
        return self._tied[0] if self._tied else self.recurrent[self._recurrent_of[t]]

    def tie_recurrent(self, recurrent: nn.Module) -> None:
        """Use C3 of another unit, to which it belongs, instead of an own one."""
        # A tuple, so that the module is not registered a second time.
        self.recurrent, self._tied = ModuleList(), (recurrent,)

    def forward(self, t: int, source: Tensor, state: Tensor) -> Tensor:
        """h_t of s_t and h_{t-1}.

        Args:
            t: Index of the block in its stage (from 0).
            source: s_t, (N, C, H, W).
            state: h_{t-1}, (N, k, H, W), before pooling if t is 0, or zeros of
                shape (N, k, 1, 1) for h_0; of a ConvLSTM h and c side by side.
        """
        if t >= self.num_updates:
            return state
        return self.advance(t, self.compress_of(t)(source), state)

    def advance(self, t: int, update: Tensor, h: Tensor) -> Tensor:
        """h_t of C1(s_t), (N, k, H, W), and h_{t-1}."""
        norm, c3 = self.norms[t], self.recurrent_of(t)
        if t == 0:
            h = self.pool(h)
        if self.cell == 'conv' and self.before_recurrence:
            return c3(torch.tanh(norm(update + h)))  # Figure 3
        if self.cell == 'post-act':
            return torch.tanh(norm(c3(update + h)))
        if self.cell == 'conv':
            # h_0 = 0 becomes a map: behind the norm it is not zero.
            return c3(torch.tanh(norm(torch.zeros_like(update) + h))) + update
        return c3(torch.tanh(norm(update)), h)

    def start_from_plain(self) -> None:
        """Make the last conv of each read zero: blocks compute what they did."""
        for read in [*(self.read or ()), *([self.last] if self.last else [])]:
            nn.init.zeros_(last_conv(read).weight)

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


class RLA(BaseModule):
    """Mixin that runs the blocks of a plain backbone with a hidden state.

    ``class RLAResNet(RLA, ResNet)`` takes the arguments of ``ResNet`` and those
    below, and has its parameters and, below ``rla``, those of the units. With
    the weights of the plain network alone the reads start at zero, and the
    outputs are the plain network's.

    A family says how its blocks are taken apart: :meth:`branch`, :meth:`join`,
    :meth:`make_read`, :meth:`forward_stem`.

    Args:
        *args: Arguments of the plain backbone.
        rla_channels (int): Channels k of the hidden state; 0 is the plain
            network. Defaults to 32.
        integration (str): What C1 summarises and where it enters, 'v1' (the
            paper's) to 'v6'; published weights need 'v3'. Defaults to 'v1'.
        cell (str): 'conv' (the paper's), 'post-act', 'convlstm' or 'convgru'.
        shared (bool): Whether the blocks of a stage share C1 and C3.
        exchange (bool): Whether blocks read the hidden state.
        return_hidden (bool): Whether the outputs end with the last hidden state:
            True for a classifier (:class:`RLANeck` takes it), False for a detector,
            whose neck takes main features alone. With False the last update, which
            nothing would read, is neither computed nor built. Defaults to False.
        freeze_rla (bool): Whether ``frozen_stages`` and ``norm_eval`` hold for
            the RLA units too: for weights that were pretrained with RLA.
            Defaults to False: units learn, and BN_t uses its batch.
        rla_norm_cfg (dict, optional): Config of BN_t and of norms in the reads.
            By default ``norm_cfg``, but learnable.
        **kwargs: Arguments of the plain backbone.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.
    """

    #: Images (N, in_channels, H, W) to the first layer's input; the family's.
    forward_stem: Callable[[Tensor], Tensor]
    #: What ends the network, behind the last block; the family's.
    finish: Callable[[Tensor], Tensor]

    init_cfg: Any
    #: Integrations that the family's blocks have.
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
            check_choice(name, value, (True, False))  # 'no' would be true
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
        self.rla: Any = None  # the units, a ModuleList, or None without RLA
        # Without exchange nothing but the classifier reads the state.
        if rla_channels and (exchange or self.reads_last_state):
            self.rla = self.make_units()
            self._register_first('rla')
        # mmpretrain zeroes the last norms after it has loaded, but for one form
        # of init_cfg; mmengine knows two forms.
        init_cfg, self._is_pretrained = as_pretrained(self.init_cfg)
        self.init_cfg = init_cfg
        if self._is_pretrained:
            self.zero_init_residual = False
        self._fit: Optional[Fit] = None
        if freeze_rla:
            self._freeze_stages()

    # What a family says of its network

    def layer_names(self) -> List[str]:
        """Names of the layers of blocks, up to the last whose output is needed."""
        return self.res_layers[: max((0, *self.out_indices)) + 1]

    def unit_layers(self) -> List[List[int]]:
        """Indices of the layers that share a unit: those of one resolution."""
        return [[i] for i in range(len(self.layer_names()))]

    def stage_stride(self, i: int) -> int:
        """Stride of layer i."""
        return self.strides[i]

    @property
    def reads_last_state(self) -> bool:
        """Whether anything reads the state after the last block."""
        return self.return_hidden

    def branch(
        self, block: nn.Module, x: Tensor, read: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual y_t and the (projected) identity of a block.

        Args:
            block: The block.
            x: Main features (N, C, H, W).
            read: What it reads of h, an addend; None for nothing.

        Returns:
            Both (N, C', H', W'); None for the identity in a block without one.
        """
        return block.branch(x, read)

    def join(self, block: nn.Module, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The block's output x_t of residual and identity."""
        return block.join(y, identity)

    def mixing_conv(self, block: nn.Module) -> nn.Module:
        """The first conv of a block that mixes channels: the read joins its output."""
        return block.mixing_conv

    def make_read(self, block: nn.Module) -> nn.Module:
        """What a block reads of h: a module of (N, k, H, W)."""
        return block.make_read(self.rla_channels, self.rla_norm_cfg)

    def block_channels(self, block: nn.Module) -> int:
        """Channels of a block's output."""
        return block.out_channels

    def zero_state(self, x: Tensor) -> Tensor:
        """h_0: zeros that broadcast, (N, k, 1, 1), so that no map is made."""
        return x.new_zeros(x.shape[0], self.state_channels, 1, 1)

    # The network

    @property
    def state_channels(self) -> int:
        """Channels of what is carried from block to block."""
        return self.rla[0].state_channels if self.rla else 0

    @property
    def layers_of_blocks(self) -> List[nn.Sequential]:
        """The layers of blocks, in order."""
        return [getattr(self, name) for name in self.layer_names()]

    def block_of(self, i: int, t: int) -> nn.Module:
        """Block t of layer i."""
        return getattr(self, self.layer_names()[i])[t]

    def make_units(self, **kwargs: Any) -> ModuleList:
        """The units, one a stage.

        Args:
            **kwargs: Further arguments of :class:`RLAUnit`.
        """
        layers, units = self.layers_of_blocks, ModuleList()
        stages = self.unit_layers()
        #: Unit of each layer, and which of its blocks the layer's first is.
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
        """x_t and h_t of x_{t-1} and h_{t-1}: block t of layer i, and its unit."""
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
        """Images (N, in_channels, H, W) to the outputs at ``out_indices``.

        With ``return_hidden`` the last hidden state, (N, k, H, W), follows them.
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
        """What follows the outputs of the layers of blocks."""
        return [self.rla[-1].hidden(state)] if self.return_hidden else []

    # Modes, weights

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
        """Set the mode; what is frozen and, with ``norm_eval``, norms stay in eval.

        Of the units only with ``freeze_rla``.
        """
        super().train(mode)
        units = self._modules.get('rla')
        if units is not None and not self.freeze_rla:
            units.train(mode)
        return self

    def init_weights(self) -> None:
        """Draw the weights, load those that ``init_cfg`` names.

        Raises:
            WeightsMismatchError: If pretrained weights are named, but what was
                loaded is not this network's.
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
        """Let a module come first: explaining tools take a backbone's last norm."""
        for other in [key for key in self._modules if key != name]:
            self._modules[other] = self._modules.pop(other)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Each block is a layer. BN_t and the read of h belong to their block, C1
        and C3 to the last block of their stage.

        Args:
            param_name (str): The parameter's name.
            prefix (str): The backbone's prefix in it. Defaults to ''.

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
    """A norm config for ``channels`` channels that were not pretrained."""
    cfg = dict(norm_cfg, requires_grad=True)
    if 'num_groups' in cfg:
        groups = min(cfg['num_groups'], channels or 1)
        while channels % groups:
            groups -= 1
        cfg['num_groups'] = groups
    return cfg
