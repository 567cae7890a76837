#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw the README's figures: the recurrence, and cost against published error.

    draw_readme_figures.py [--out-dir docs/figures]

The scores are the paper's (Table 3), read from the metafiles of the configs.
"""

import argparse
from pathlib import Path
from typing import Any, List, Optional, Tuple

from mmrla.analysis import plots
from mmrla.analysis.paper import published_errors, read_tables
from mmrla.engine.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / 'tools/analysis_tools/paper_tables.yml'

Point = Tuple[float, float]


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out-dir', type=Path, default=ROOT / 'docs/figures')
    return parser.parse_args(argv)


# --- the recurrence -----------------------------------------------------------


def _box(ax: Any, at: Point, text: str, size: Point = (1.0, 0.62), **look: Any) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = size
    look = dict(dict(facecolor='white', edgecolor='black', linewidth=1.2), **look)
    corner = (at[0] - width / 2, at[1] - height / 2)
    ax.add_patch(
        FancyBboxPatch(
            corner, width, height, boxstyle='round,pad=0,rounding_size=0.1', **look
        )
    )
    ax.text(*at, text, ha='center', va='center', fontsize=11)


def _arrow(ax: Any, start: Point, end: Point, **look: Any) -> None:
    look = dict(dict(arrowstyle='-|>', color='black', linewidth=1.2), **look)
    ax.annotate(
        '', end, start, arrowprops=dict(look, shrinkA=0, shrinkB=0, mutation_scale=12)
    )


def _line(ax: Any, *points: Point) -> None:
    ax.plot(*zip(*points), color='black', linewidth=1.2, solid_capstyle='butt')


def _plus(ax: Any, at: Point) -> None:
    ax.plot(*at, 'o', markersize=15, markerfacecolor='white', markeredgecolor='black')
    ax.text(*at, '+', ha='center', va='center', fontsize=13)


def draw_recurrence() -> Any:
    """Two blocks of a stage, with the RLA unit that they share (Figure 3)."""
    figure, axes = plots.add_figure(1, 1, (11.5, 3.9))
    ax = axes[0, 0]
    ax.grid(False)
    ax.axis('off')
    shared = dict(facecolor='0.82', linewidth=2)
    x_row, h_row, span = 2.6, 0.0, 7.0
    x_from = h_from = 0.0  # where the arrows into a block begin
    for i, (now, before) in enumerate((('t', 't-1'), ('t+1', 't'))):
        left = i * span
        tap, f, written, plus, relu = (left + d for d in (0.3, 1.4, 2.45, 3.4, 4.5))
        ax.text(left - 0.1, x_row + 0.12, f'$x_{{{before}}}$', fontsize=12, ha='right')
        ax.text(left - 0.1, h_row + 0.12, f'$h_{{{before}}}$', fontsize=12, ha='right')
        # The main path: the block and its shortcut.
        _arrow(ax, (x_from, x_row), (f - 0.6, x_row))
        _box(ax, (f, x_row), f'$F_{{{now}}}$', (1.2, 0.9))
        _arrow(ax, (f + 0.6, x_row), (plus - 0.19, x_row))
        ax.text(written, x_row + 0.12, f'$y_{{{now}}}$', fontsize=12, ha='center')
        _line(ax, (tap, x_row), (tap, x_row + 1.0), (plus, x_row + 1.0))
        _arrow(ax, (plus, x_row + 1.0), (plus, x_row + 0.19))
        ax.text(f, x_row + 1.1, 'shortcut', fontsize=10, ha='center')
        _plus(ax, (plus, x_row))
        _arrow(ax, (plus + 0.19, x_row), (relu - 0.4, x_row))
        _box(ax, (relu, x_row), 'ReLU', (0.8, 0.56))
        x_from = relu + 0.4
        # What the block reads, and what it writes.
        _line(ax, (tap, h_row), (tap, x_row - 0.28))
        _arrow(ax, (tap, x_row - 0.28), (f - 0.6, x_row - 0.28))
        _arrow(ax, (written, x_row), (written, 1.61))
        _box(ax, (written, 1.3), '$C_1$: 1x1', (1.15, 0.62), **shared)
        _arrow(ax, (written, 0.99), (written, h_row + 0.19))
        # The path of the hidden state.
        _arrow(ax, (h_from, h_row), (written - 0.19, h_row))
        _plus(ax, (written, h_row))
        h_from = written + 0.19
        for at, text, width, look in (
            (3.45, f'$BN_{{{now}}}$', 0.95, {}),
            (4.5, 'tanh', 0.75, {}),
            (5.7, '$C_3$: 3x3', 1.15, shared),
        ):
            start = left + at - width / 2
            _arrow(ax, (h_from, h_row), (start, h_row))
            _box(ax, (left + at, h_row), text, (width, 0.62), **look)
            h_from = start + width
    for start, row, name in ((x_from, x_row, 'x'), (h_from, h_row, 'h')):
        _arrow(ax, (start, row), (2 * span + 0.2, row))
        ax.text(2 * span + 0.3, row, f'${name}_{{t+1}}$', fontsize=12, va='center')
    ax.text(
        span,
        -0.95,
        'grey: shared by all blocks of a stage;  $F_t$ reads $x$ and $h$, concatenated',
        fontsize=11,
        ha='center',
    )
    ax.set(xlim=(-0.8, 2 * span + 1.0), ylim=(-1.2, 4.0))
    return figure


# --- cost and error -----------------------------------------------------------


def cost_rows() -> List[Tuple[str, str, float, float]]:
    """Rows (network, module, GFLOPs, top-1 error) of Table 3's ResNets."""
    (table,) = (t for t in read_tables(TABLES) if t.number == 3)
    errors = published_errors(ROOT / 'configs')
    rows, network = [], ''
    for row in table.rows:
        if not row.model.startswith('+'):
            network = row.model
        plain = network.startswith('ResNet-') and 'tricks' not in row.model
        if plain and row.config in errors:
            module = row.model if row.model.startswith('+') else 'plain'
            rows.append((network, module, float(row.flops[:-1]), errors[row.config]))
    return rows


def draw_cost(rows: List[Tuple[str, str, float, float]]) -> Any:
    """Error against FLOPs, a line for each module over the three depths."""
    figure, axes = plots.add_figure(1, 1, (7.2, 4.4))
    ax = axes[0, 0]
    for i, module in enumerate(dict.fromkeys(row[1] for row in rows)):
        points = [(flops, error) for _, m, flops, error in rows if m == module]
        label = 'ResNet' if module == 'plain' else module
        ax.plot(*zip(*points), label=label, **plots.line_style(i))
    for network in dict.fromkeys(row[0] for row in rows):
        flops, error = next(r[2:] for r in rows if r[:2] == (network, 'plain'))
        ax.annotate(
            network,
            (flops, error),
            textcoords='offset points',
            xytext=(5, 6),
            ha='left',
            fontsize=9,
        )
    ax.set_xlabel('GFLOPs (the paper\'s: "G" is $2^{30}$, 224x224)')
    ax.set_ylabel('ImageNet top-1 error, %')
    ax.set_title("The paper's figures (Table 3), not measured here", fontsize=10)
    ax.margins(y=0.12)
    ax.legend(frameon=False)
    return figure


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Draw."""
    args = parse_args(argv)
    # A drawing has no numbers: of it only the pictures stay.
    *pictures, table = plots.save(
        draw_recurrence(), args.out_dir / 'recurrence', (), ()
    )
    table.unlink()
    rows = cost_rows()
    head = ('network', 'module', 'gflops', 'top1_error')
    files = plots.save(draw_cost(rows), args.out_dir / 'cost_error', head, rows)
    print('written:', *pictures, *files)


if __name__ == '__main__':
    main()
