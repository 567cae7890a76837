#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Plot training curves of one or several work_dirs.

    plot_curves.py WORK_DIR [WORK_DIR ...] --out STEM [--keys loss coco/bbox_mAP]

A resumed training is one curve. Writes STEM.png, STEM.svg and
STEM.csv.
"""

import argparse
from pathlib import Path
from typing import List, Optional

from mmrla.analysis import plots
from mmrla.analysis.runs import (
    CURVES_HEAD,
    curve_keys,
    curves_table,
    draw_curves,
    read_runs,
)
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--out', type=Path, required=True, metavar='STEM')
    parser.add_argument(
        '--keys',
        nargs='+',
        metavar='NAME',
        help='scalars as they are logged (the loss and the main metrics)',
    )
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Draw the curves and save the figure."""
    args = parse_args(argv)
    runs = read_runs(args.work_dirs)
    logged = sorted({key for run in runs for record in run.scalars for key in record})
    keys = args.keys or curve_keys(runs)
    for key in keys:
        if key not in logged:
            raise UserError(
                f'--keys {key} is not logged; there are {", ".join(logged)}'
            )
    if not keys:
        raise UserError('nothing is logged in these work_dirs')
    rows = curves_table(runs, keys)
    files = plots.save(draw_curves(runs, keys), args.out, CURVES_HEAD, rows)
    print('written:', *files)


if __name__ == '__main__':
    main()
