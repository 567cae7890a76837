# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What a network writes to its hidden state, keeps there and reads from it.

Hooks record it during one ordinary forward pass.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..models.rla import RLA, RLAUnit, last_conv
from . import plots

__all__ = [
    'Reading',
    'Update',
    'decompose',
    'draw_lags',
    'draw_maps',
    'draw_norms',
    'draw_reading',
    'lag_table',
    'map_table',
    'norm_table',
    'reading_table',
    'record',
    'survival',
]


@dataclass(frozen=True)
class Update:
    """One step of the recurrence.

    Attributes:
        block: Index of the block in its stage, from 0.
        written: C1 of the block's output or residual, (1, k, H, W).
        before: The state before the step (at a stage's first block before
            pooling); h_0 is zeros of shape (1, k, 1, 1).
        after: The state after it; for a ConvLSTM h and c, concatenated.
    """

    block: int
    written: Tensor
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Reading:
    """The hidden state's share in the conv that reads it.

    Attributes:
        block: Index of the block in its stage, from 0.
        channels: Share of h in the conv's input channels.
        weights: Share of h's weights in the squared norm of the conv's weights.
        output: Share of h's part in the squared norm of the conv's output, as
            norm(W_h h)^2 / (norm(W_h h)^2 + norm(W_x x)^2), for this image. 0
            for h_0 = 0, even if a norm in the read turns it into a constant.
    """

    block: int
    channels: float
    weights: float
    output: float


@dataclass(frozen=True)
class Stage:
    """The record of one stage.

    Attributes:
        name: Name of its first layer in the backbone.
        unit: Its RLA unit.
        updates: The updates computed, in order.
        readings: One for each block, empty where blocks do not read h.
    """

    name: str
    unit: RLAUnit
    updates: List[Update] = field(default_factory=list)
    readings: List[Reading] = field(default_factory=list)


def _energy(x: Tensor) -> float:
    return float(x.detach().double().square().sum())


def _keep_update(stage: Stage) -> Callable[..., None]:
    def hook(unit: Any, args: Tuple[int, Tensor, Tensor], after: Tensor) -> None:
        t, source, before = args
        if t < unit.num_updates:
            written = unit.compress_of(t)(source)
            stage.updates.append(Update(t, written, before, after))

    return hook


def _keep_energy(energies: Dict[int, float], t: int) -> Callable[..., None]:
    def hook(module: Any, args: Tuple[Tensor], output: Tensor) -> None:
        # From zeros comes only the norm's bias, which is neither h nor x.
        energies[t] = _energy(output) if args[0].any() else 0.0

    return hook


def _reading(stage: Stage, t: int, conv: Any, of_x: float, of_h: float) -> Reading:
    """The reading of block t from the energies of both parts of the conv's output."""
    assert stage.unit.read is not None
    read = stage.unit.read[t]
    weight = last_conv(read).weight
    k = stage.unit.rla_channels
    weights = _energy(weight) / (_energy(weight) + _energy(conv.weight))
    output = of_h / (of_h + of_x) if of_h else 0.0
    return Reading(t, k / (k + conv.weight.shape[1]), weights, output)


@contextlib.contextmanager
def _removed(handles: List[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(network: nn.Module, images: Tensor) -> List[Stage]:
    """Run a backbone once and record its hidden state.

    Args:
        network: An RLA backbone, or a classifier or detector with one, in eval
            mode.
        images: Input of the network's forward, (1, C, H, W).

    Returns:
        The stages with an RLA unit.

    Raises:
        UserError: If the network has no hidden state.
    """
    backbone = getattr(network, 'backbone', network)
    if not isinstance(backbone, RLA) or backbone.rla is None:
        raise UserError(
            f'{type(backbone).__name__} has no hidden state here: a backbone like '
            'RLAResNet with rla_channels of at least 1 has one'
        )
    names, layers = backbone.layer_names(), backbone.layers_of_blocks
    stages: List[Stage] = []
    handles: List[Any] = []
    convs: List[List[nn.Module]] = []
    of_x: List[Dict[int, float]] = []
    of_h: List[Dict[int, float]] = []
    for unit, indices in zip(backbone.rla, backbone.unit_layers()):
        stages.append(Stage(names[indices[0]], unit))
        handles.append(unit.register_forward_hook(_keep_update(stages[-1])))
        blocks = [block for i in indices for block in layers[i]]
        convs.append([backbone.mixing_conv(block) for block in blocks])
        of_x.append({})
        of_h.append({})
        for t, read in enumerate(unit.read or ()):
            for module, energies in ((convs[-1][t], of_x[-1]), (read, of_h[-1])):
                handles.append(module.register_forward_hook(_keep_energy(energies, t)))
    with _removed(handles), torch.no_grad():
        backbone(images)
    for i, stage in enumerate(stages):
        for t in sorted(of_h[i]):
            reading = _reading(stage, t, convs[i][t], of_x[i][t], of_h[i][t])
            stage.readings.append(reading)
    return stages


def _powers(stage: Stage) -> List[Dict[int, Tensor]]:
    unit = stage.unit
    parts: List[Dict[int, Tensor]] = []
    for t, update in enumerate(stage.updates):
        before = dict(parts[-1]) if parts else {}
        if t == 0 and update.before.any():
            before = {-1: unit.pool(update.before)}
        conv = unit.recurrent_of(t)
        if unit.before_recurrence:
            before[t] = update.written
            parts.append({s: conv(part) for s, part in before.items()})
        else:
            parts.append({s: conv(part) for s, part in before.items()})
            parts[-1][t] = update.written
    return parts


def _derivatives(stage: Stage) -> List[Dict[int, Tensor]]:
    from torch.func import jvp

    unit = stage.unit
    tangents: List[Dict[int, Tensor]] = []
    for t, update in enumerate(stage.updates):
        written, state = update.written, update.before

        def by_state(state: Tensor, t: int = t, written: Tensor = written) -> Any:
            return unit.advance(t, written, state)

        def by_written(written: Tensor, t: int = t, state: Tensor = state) -> Any:
            return unit.advance(t, written, state)

        before = tangents[-1] if tangents else {}
        if t == 0 and state.any():
            before = {-1: state}
        after = {s: jvp(by_state, (state,), (part,))[1] for s, part in before.items()}
        after[t] = jvp(by_written, (written,), (written,))[1]
        tangents.append(after)
    return [{s: unit.hidden(p) for s, p in parts.items()} for parts in tangents]


def decompose(stage: Stage, linear: bool = True) -> List[Dict[int, Tensor]]:
    """The state after each block as a sum over the blocks that wrote it.

    Args:
        stage: A recorded stage.
        linear: Whether to ignore BN_t and tanh, as Eq. 12 does: block s then
            contributes C3^(t-s+1) C1 y_s to h_t (C3^(t-s) C1 y_s for the
            integrations v2, v4 and v6). Otherwise both are replaced by their
            derivatives at this image, which works for every cell.

    Returns:
        For each block t the parts of h_t, (1, k, H, W), by the block s that
        wrote them; -1 is the part of the stage before. With ``linear`` they
        would add up to h_t without BN_t and tanh.

    Raises:
        ValueError: If ``linear`` and the cell is an LSTM or a GRU.
    """
    if linear and stage.unit.cell not in ('conv', 'post-act'):
        raise ValueError(f'cell={stage.unit.cell!r} has no powers of C3 (Eq. 12)')
    with torch.no_grad():
        return _powers(stage) if linear else _derivatives(stage)


def survival(parts: Sequence[Dict[int, Tensor]]) -> List[float]:
    """How much of what blocks write is left after a lag.

    Args:
        parts: From :func:`decompose`.

    Returns:
        For lag 0, 1, ... the norm of a block's part in the state that many blocks
        later, divided by its norm right after the block; the mean over the
        blocks that have that many successors.
    """
    norms = [{s: _energy(p) ** 0.5 for s, p in at.items()} for at in parts]
    means = []
    for lag in range(len(parts)):
        ratios = [
            norms[s + lag][s] / norms[s][s]
            for s in range(len(parts) - lag)
            if norms[s][s]
        ]
        means.append(float(np.mean(ratios)) if ratios else 0.0)
    return means


# --- tables and figures -------------------------------------------------------


def _rms(x: Tensor) -> float:
    return (_energy(x) / x.numel()) ** 0.5


def norm_table(stages: Sequence[Stage]) -> Tuple[Tuple[str, ...], List[tuple]]:
    """Head and rows: root mean squares of C1 y_t and of the state."""
    head = ('stage', 'block', 'rms_written', 'rms_state')
    rows = [
        (stage.name, u.block + 1, _rms(u.written), _rms(stage.unit.hidden(u.after)))
        for stage in stages
        for u in stage.updates
    ]
    return head, rows


def lag_table(stages: Sequence[Stage]) -> Tuple[Tuple[str, ...], List[tuple]]:
    """Head and rows: what survives a lag; '' for cells without powers of C3."""
    head = ('stage', 'lag', 'powers_of_c3', 'at_this_image')
    rows: List[tuple] = []
    for stage in stages:
        here = survival(decompose(stage, linear=False))
        powers: Sequence[Any] = [''] * len(here)
        if stage.unit.cell in ('conv', 'post-act'):
            powers = survival(decompose(stage))
        rows += [(stage.name, lag, powers[lag], here[lag]) for lag in range(len(here))]
    return head, rows


def reading_table(stages: Sequence[Stage]) -> Tuple[Tuple[str, ...], List[tuple]]:
    """Head and rows: the share of h in each conv that reads it."""
    head = ('stage', 'block', 'channels', 'weights', 'output')
    rows = [
        (stage.name, r.block + 1, r.channels, r.weights, r.output)
        for stage in stages
        for r in stage.readings
    ]
    return head, rows


#: Most maps in a row of a figure; longer stages skip some blocks.
_MAPS = 12


def _shown(stage: Stage) -> List[Update]:
    count = len(stage.updates)
    picked = np.unique(np.linspace(0, count - 1, min(count, _MAPS)).astype(int))
    return [stage.updates[i] for i in picked]


def _map(stage: Stage, update: Update) -> np.ndarray:
    """Root mean square of the state over its channels, (H, W)."""
    return stage.unit.hidden(update.after)[0].square().mean(0).sqrt().numpy()


def map_table(stages: Sequence[Stage]) -> Tuple[Tuple[str, ...], List[tuple]]:
    """Head and rows: the values of the maps of :func:`draw_maps`."""
    head = ('stage', 'block', 'row', 'column', 'rms_state')
    rows = [
        (stage.name, update.block + 1, *position, float(value))
        for stage in stages
        for update in _shown(stage)
        for position, value in np.ndenumerate(_map(stage, update))
    ]
    return head, rows


def draw_maps(stages: Sequence[Stage], image: np.ndarray) -> Any:
    """Draw the picture and the state after each block, one row per stage.

    A map is the root mean square over the channels, from dark (0) to the lightest
    colour (the largest value in its stage).

    Args:
        stages: The recorded stages.
        image: The picture, RGB, (H, W, 3).
    """
    shown = [_shown(stage) for stage in stages]
    columns = 1 + max(len(updates) for updates in shown)
    ratio = image.shape[0] / image.shape[1]
    size = (1.15 * columns, (1.05 * ratio + 0.22) * len(stages))
    figure, axes = plots.add_figure(len(stages), columns, size)
    for ax in axes.flat:
        ax.axis('off')
    axes[0, 0].imshow(image)
    axes[0, 0].set_title('picture', fontsize=8)
    for row, (stage, updates) in enumerate(zip(stages, shown)):
        maps = [_map(stage, update) for update in updates]
        top = max(m.max() for m in maps) or 1.0
        for ax, update, values in zip(axes[row, 1:], updates, maps):
            ax.imshow(values, cmap=plots.CMAP, vmin=0, vmax=top)
            name = f'{stage.name}, ' if update is updates[0] else ''
            ax.set_title(f'{name}{update.block + 1}', fontsize=8)
    return figure


def _along_depth(
    stages: Sequence[Stage], series: Dict[str, List[List[float]]], ylabel: str
) -> Any:
    """Lines over the blocks of all stages, side by side."""
    figure, axes = plots.add_figure(1, 1, (7.5, 3.8))
    ax = axes[0, 0]
    lengths = [len(values) for values in next(iter(series.values()))]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    for i, (label, by_stage) in enumerate(series.items()):
        for s, values in enumerate(by_stage):
            x = starts[s] + np.arange(1, len(values) + 1)
            ax.plot(x, values, label=label if s == 0 else None, **plots.line_style(i))
    for s, stage in enumerate(stages):
        if s:
            ax.axvline(starts[s] + 0.5, color='0.6', linewidth=0.8)
        ax.text(
            (starts[s] + starts[s + 1] + 1) / 2,
            1.0,
            stage.name,
            transform=ax.get_xaxis_transform(),
            ha='center',
            va='bottom',
        )
    ax.set_xlabel('block')
    plots.whole_numbers(ax.xaxis)
    ax.set_ylabel(ylabel)
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    return figure


def draw_norms(stages: Sequence[Stage]) -> Any:
    """Draw what each block writes, and the state after it."""
    return _along_depth(
        stages,
        {
            'written: $C_1 y_t$': [
                [_rms(u.written) for u in s.updates] for s in stages
            ],
            'state: $h_t$': [
                [_rms(s.unit.hidden(u.after)) for u in s.updates] for s in stages
            ],
        },
        'root mean square',
    )


def draw_reading(stages: Sequence[Stage]) -> Any:
    """Draw the share of h in each conv that reads it."""
    return _along_depth(
        stages,
        {
            label: [[getattr(r, key) for r in s.readings] for s in stages]
            for label, key in (
                ('of its output, at this image', 'output'),
                ('of its weights', 'weights'),
                ('of its input channels', 'channels'),
            )
        },
        'share of h in the conv that reads it',
    )


def draw_lags(rows: Sequence[tuple]) -> Any:
    """Draw what survives a lag, one line per stage.

    Args:
        rows: Those of :func:`lag_table`.
    """
    panels = [(2, 'powers of $C_3$ (Eq. 12)'), (3, 'with $BN_t$ and tanh, here')]
    panels = [(i, title) for i, title in panels if any(row[i] != '' for row in rows)]
    figure, axes = plots.add_figure(1, len(panels), (4.4 * len(panels), 3.8))
    names = list(dict.fromkeys(row[0] for row in rows))
    for ax, (column, title) in zip(axes[0], panels):
        for i, name in enumerate(names):
            values = [row[column] for row in rows if row[0] == name and row[column]]
            ax.plot(range(len(values)), values, label=name, **plots.line_style(i))
        plots.log_scale(ax.yaxis)
        ax.set_title(title)
        ax.set_xlabel('lag (blocks)')
        plots.whole_numbers(ax.xaxis)
        ax.legend(frameon=False)
    axes[0, 0].set_ylabel('what is left of $C_1 y_t$')
    return figure
