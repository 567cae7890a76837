#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Bring docs/evidence.md and its plot up to date.

What they show is computed from docs/evidence.jsonl, where
tools/misc/run_experiments.py adds a line for each run. Text outside of the marks is
written by hand.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Dict, List, Optional

from mmrla.analysis import evidence, markdown, plots
from mmrla.analysis.experiments import CIFAR10, EXPERIMENTS, Line, read_lines
from mmrla.analysis.paper import published_errors
from mmrla.engine.errors import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'docs/evidence.jsonl'
PAGE = ROOT / 'docs/evidence.md'
FIGURE = ROOT / 'docs/figures/evidence'
#: How the marks before and after a part begin; its name follows.
START, END = '<!-- evidence: ', '<!-- /evidence: '


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of an update."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='change nothing, exit with 1 if that is due',
    )
    return parser.parse_args(argv)


def published() -> Dict[str, float]:
    """The paper's top-1 error by the name of the config."""
    errors = published_errors(ROOT / 'configs')
    return {Path(config).stem: error for config, error in errors.items()}


def parts(lines: List[Line]) -> Dict[str, str]:
    """The generated parts by name."""
    texts = {e.name: evidence.experiment_text(e, lines) for e in EXPERIMENTS.values()}
    texts['paper'] = evidence.beside_the_paper(CIFAR10, lines, published())
    return texts


def has_plot_of(lines: List[Line]) -> bool:
    """Whether the plot is there, of the same numbers."""
    path = FIGURE.with_suffix('.csv')
    if not path.is_file() or not FIGURE.with_suffix('.png').is_file():
        return False
    rows = [plots.cells(row) for row in evidence.plot_rows(lines)]
    with path.open(newline='') as file:
        return list(csv.reader(file)) == [list(evidence.PLOT_HEAD), *rows]


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Update, or check."""
    args = parse_args(argv)
    lines = read_lines(RESULTS)
    texts = parts(lines)
    stale = []
    marks = {(f'{START}{n} -->', f'{END}{n} -->'): text for n, text in texts.items()}
    page = markdown.filled(PAGE, marks)
    if PAGE.read_text() != page:
        stale.append(PAGE)
        if not args.check:
            PAGE.write_text(page)
    if lines and not has_plot_of(lines):
        stale.append(FIGURE.with_suffix('.png'))
        if not args.check:
            rows = evidence.plot_rows(lines)
            plots.save(evidence.draw(lines), FIGURE, evidence.PLOT_HEAD, rows)
    for path in stale:
        print(f'{"out of date" if args.check else "updated"}: {path.relative_to(ROOT)}')
    if args.check and stale:
        sys.exit(1)


if __name__ == '__main__':
    main()
