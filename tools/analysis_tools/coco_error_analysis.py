#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Where a detector's AP is lost, by mmdet's COCO error analysis.

    test.py CONFIG CHECKPOINT --cfg-options test_evaluator.outfile_prefix=results
    coco_error_analysis.py results.bbox.json OUT_DIR --ann ANNOTATIONS.json

For all classes together, and for each, a figure (PNG, SVG, CSV) of precision against
recall: as at IoU 0.75 and 0.5 (C75, C50), without errors of place (Loc: IoU 0.1), of
similar classes (Sim), of all classes (Oth), without finds where nothing is (BG), and
what is never found (FN).
"""

import argparse
import contextlib
import io
import os
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np

from mmrla.analysis import plots
from mmrla.engine.checks import check_file
from mmrla.engine.errors import one_line_errors
from mmrla.engine.upstream import load_tool
from mmrla.errors import UserError

AREAS = ('all', 'small', 'medium', 'large')
#: From the strictest to the laxest; each area of the figure is what one adds.
KINDS = ('C75', 'C50', 'Loc', 'Sim', 'Oth', 'BG', 'FN')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of the analysis."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('result', help="results in COCO's JSON format")
    parser.add_argument('out_dir', type=Path, help='folder for the figures')
    parser.add_argument('--ann', required=True, help='annotation file')
    parser.add_argument('--type', choices=('bbox', 'segm'), default='bbox')
    parser.add_argument(
        '--areas',
        type=int,
        nargs=3,
        default=[1024, 9216, 10000000000],
        metavar='PIXELS',
        help='upper bounds of small, medium and large areas',
    )
    return parser.parse_args(argv)


def _annotations(path: str) -> Any:
    """Annotations; categories of no supercategory are their own."""
    from pycocotools.coco import COCO

    coco = COCO(path)
    for category in coco.dataset['categories']:
        category.setdefault('supercategory', category['name'])
    return coco


def analyse(args: argparse.Namespace) -> Dict[str, np.ndarray]:
    """Precision (kind, recall, area) by class; 'allclass' is the mean."""
    tool = load_tool('mmdet', 'analysis_tools/coco_error_analysis.py')
    found: Dict[str, np.ndarray] = {}

    def keep(
        recall: Any, precision: np.ndarray, out: str, name: str, kind: str
    ) -> None:
        # (kind, recall, [class,] area, 1)
        values = precision[..., 0]
        found[name] = values.mean(2) if values.ndim == 4 else values

    tool.COCO = _annotations  # type: ignore[attr-defined]
    tool.makeplot = keep  # type: ignore[attr-defined]
    # It would start 48 processes.
    cores = len(os.sched_getaffinity(0))
    tool.Pool = lambda processes: Pool(cores)  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()):
        tool.analyze_results(
            args.result, args.ann, [args.type], str(args.out_dir), areas=args.areas
        )
    return found


def draw(precision: np.ndarray, title: str) -> Any:
    """Precision against recall, a panel for each area."""
    figure, axes = plots.add_figure(1, len(AREAS), (3.2 * len(AREAS), 4.2), sharey=True)
    recall = np.linspace(0, 1, precision.shape[1])
    for a, (ax, area) in enumerate(zip(axes[0], AREAS)):
        below = np.zeros_like(recall)
        for i, kind in enumerate(KINDS):
            curve = precision[i, :, a]
            style = plots.bar_style(i)
            ax.fill_between(
                recall,
                below,
                curve,
                facecolor=style['color'],
                edgecolor=style['edgecolor'],
                hatch=style['hatch'],
                linewidth=0.6,
                label=f'{kind} {curve.mean():.3f}',
            )
            below = curve
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel='recall', title=area)
        ax.legend(
            fontsize=8,
            frameon=False,
            ncol=2,
            loc='upper center',
            bbox_to_anchor=(0.5, -0.18),
        )
    axes[0, 0].set_ylabel('precision')
    figure.suptitle(title, fontsize=11)
    return figure


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Analyse and draw."""
    args = parse_args(argv)
    remedy = 'tools/test.py writes it with --cfg-options test_evaluator.outfile_prefix'
    check_file(args.result, 'result', remedy)
    check_file(args.ann, 'annotation file', 'name the one that was tested with')
    if Path(args.result).suffix != '.json':
        raise UserError(f'{args.result} is no .json file: {remedy}')
    for name, precision in analyse(args).items():
        rows = [
            (
                area,
                recall / (precision.shape[1] - 1),
                *map(float, precision[:, recall, a]),
            )
            for a, area in enumerate(AREAS)
            for recall in range(precision.shape[1])
        ]
        stem = args.out_dir / args.type / name
        figure = draw(precision, f'{args.type}, {name}')
        plots.save(figure, stem, ('area', 'recall', *KINDS), rows)
        if name == 'allclass':
            means = zip(KINDS, precision[:, :, 0].mean(1))
            print(', '.join(f'{kind} {mean:.3f}' for kind, mean in means))
    print(f'written: {args.out_dir / args.type}')


if __name__ == '__main__':
    main()
