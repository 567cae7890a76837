#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Show where a detector loses AP, with mmdet's COCO error analysis.

    test.py CONFIG CHECKPOINT --cfg-options test_evaluator.outfile_prefix=results
    coco_error_analysis.py results.bbox.json OUT_DIR --ann ANNOTATIONS.json

Draws precision against recall for each class and for their mean (allclass), over all
objects and by size (PNG, SVG, CSV). The number in a label is the area below the curve,
the average precision (AP):

    C75, C50  AP at IoU 0.75 and 0.5, as COCO counts it
    Loc       AP at IoU 0.1: localisation errors ignored
    Sim       confusions within a supercategory ignored, too
    Oth       all confusions of classes ignored, too
    BG        detections on background ignored, too
    FN        missed objects ignored, too: always 1

The mean is over the classes with objects of that size.
"""

import argparse
import contextlib
import io
import os
from multiprocessing import Pool
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from mmrla.analysis import plots
from mmrla.engine.checks import check_file
from mmrla.engine.errors import one_line_errors
from mmrla.engine.upstream import load_tool
from mmrla.errors import UserError

AREAS = ('all', 'small', 'medium', 'large')
#: From the strictest to the laxest; each adds one area of the figure.
KINDS = ('C75', 'C50', 'Loc', 'Sim', 'Oth', 'BG', 'FN')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
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
    """Read annotations; a category without a supercategory is its own."""
    from pycocotools.coco import COCO

    coco = COCO(path)
    for category in coco.dataset['categories']:
        category.setdefault('supercategory', category['name'])
    return coco


def classes_with_objects(coco: Any, areas: Sequence[int]) -> np.ndarray:
    """Whether there are objects, by class and area: bool, (classes, 4)."""
    ids = coco.getCatIds()
    small, medium, large = areas
    ranges = ((0, large), (0, small), (small, medium), (medium, large))
    there = np.zeros((len(ids), len(ranges)), bool)
    for found in coco.dataset['annotations']:
        if not found.get('iscrowd'):
            inside = [low <= found['area'] <= high for low, high in ranges]
            there[ids.index(found['category_id'])] |= inside
    return there


def analyse(args: argparse.Namespace) -> Dict[str, np.ndarray]:
    """Precision by class, and the mean of classes with objects as 'allclass'.

    Returns:
        Arrays (kind, recall, area); NaN for areas in which there are no objects.
    """
    tool = load_tool('mmdet', 'analysis_tools/coco_error_analysis.py')
    found: Dict[str, np.ndarray] = {}

    def keep(
        recall: Any, precision: np.ndarray, out: str, name: str, kind: str
    ) -> None:
        found[name] = precision[..., 0]  # (kind, recall, [class,] area)

    # It would start 48 processes.
    cores = len(os.sched_getaffinity(0))
    tool.Pool = lambda processes: Pool(cores)  # type: ignore[attr-defined]
    tool.makeplot = keep  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = _annotations(args.ann)
        tool.COCO = lambda path: coco  # type: ignore[attr-defined]
        tool.analyze_results(
            args.result, args.ann, [args.type], str(args.out_dir), areas=args.areas
        )
    # Without objects COCOeval says -1, but the tool says 0, as if none were found.
    there = classes_with_objects(coco, args.areas)
    precision = np.where(there, found.pop('allclass'), np.nan)
    by_class = dict(zip(found, precision.transpose(2, 0, 1, 3)))
    count = there.sum(0)
    mean = np.nansum(precision, 2) / np.where(count, count, np.nan)
    return {**by_class, 'allclass': mean}


def draw(precision: np.ndarray, title: str) -> Any:
    """Draw precision against recall, one panel per area."""
    figure, axes = plots.add_figure(1, len(AREAS), (3.2 * len(AREAS), 4.2), sharey=True)
    recall = np.linspace(0, 1, precision.shape[1])
    for a, (ax, area) in enumerate(zip(axes[0], AREAS)):
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel='recall', title=area)
        if np.isnan(precision[:, :, a]).any():
            ax.text(0.5, 0.5, 'no objects', ha='center', va='center')
            continue
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
    """Analyse the results and save a figure for each class."""
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
            if not np.isnan(precision[:, :, a]).any()
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
