#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw cost against published error, the figure of docs/performance.md.

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


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out-dir', type=Path, default=ROOT / 'docs/figures')
    return parser.parse_args(argv)


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
    """Draw the figure and save it."""
    args = parse_args(argv)
    rows = cost_rows()
    head = ('network', 'module', 'gflops', 'top1_error')
    files = plots.save(draw_cost(rows), args.out_dir / 'cost_error', head, rows)
    print('written:', *files)


if __name__ == '__main__':
    main()
