#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw the confusion matrix of a detector or classifier, with upstream's tools.

    test.py CONFIG CHECKPOINT --out predictions.pkl
    confusion_matrix.py CONFIG predictions.pkl --out STEM

Writes STEM.png, STEM.svg and STEM.csv. Detectors get one more class, background: missed
objects, and detections where there is no object.
"""

import argparse
from pathlib import Path
from typing import Any, List, Optional, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.fileio import load

from mmrla.analysis import plots
from mmrla.engine.checks import check_complete, check_file
from mmrla.engine.config import add_cfg_options, load_config
from mmrla.engine.errors import one_line_errors
from mmrla.engine.layout import build_dataset
from mmrla.engine.upstream import load_tool
from mmrla.errors import UserError
from mmrla.progress import Progress

#: Most classes for which numbers are written into the cells.
_NUMBERED = 25


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('predictions', help='what tools/test.py --out has written')
    parser.add_argument('--out', type=Path, required=True, metavar='STEM')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of an object (0.3)'
    )
    parser.add_argument(
        '--iou-thr', type=float, default=0.5, help='least IoU of a match (0.5)'
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def _of_detector(dataset: Any, results: Any, args: argparse.Namespace) -> np.ndarray:
    tool = load_tool('mmdet', 'analysis_tools/confusion_matrix.py')
    # In a log MMEngine's bar prints a line per image.
    tool.ProgressBar = lambda total: Progress(total, 'images')  # type: ignore[attr-defined]
    counts = tool.calculate_confusion_matrix(
        dataset, results, args.score_thr, None, args.iou_thr
    )
    return counts


def _of_classifier(results: Any) -> np.ndarray:
    from mmengine.evaluator import Evaluator
    from mmpretrain.evaluation import ConfusionMatrix

    metrics = Evaluator(ConfusionMatrix()).offline_evaluate(results, None)
    return metrics['confusion_matrix/result'].numpy()


def count(cfg: Config, results: Any, args: argparse.Namespace) -> Any:
    """The matrix (truth, prediction) and the class names.

    Raises:
        UserError: If the predictions are not for this data set.
    """
    dataset = build_dataset(cfg, 'test')
    if not isinstance(results, list) or len(results) != len(dataset):
        raise UserError(
            f'{args.predictions} is not a list with a prediction for each of the '
            f'{len(dataset)} images of {args.config}'
        )
    classes = [str(name) for name in dataset.metainfo['classes']]
    is_detector = 'pred_instances' in results[0]
    if is_detector:
        return _of_detector(dataset, results, args), [*classes, 'background']
    return _of_classifier(results), classes


def draw(counts: np.ndarray, classes: Sequence[str]) -> Any:
    """Draw the matrix, each row in percent of the true objects."""
    total = np.maximum(counts.sum(1, keepdims=True), 1)
    percent = 100 * counts / total
    side = min(max(3.2, 0.42 * len(classes) + 1.6), 16)
    figure, axes = plots.add_figure(1, 1, (side + 1, side))
    ax = axes[0, 0]
    ax.grid(False)
    shown = ax.imshow(percent, cmap=plots.GREYS, vmin=0, vmax=100)
    figure.colorbar(shown, ax=ax, label='% of the row', shrink=0.8)
    size = 8 if len(classes) <= _NUMBERED else 5
    ticks = range(len(classes))
    ax.set_xticks(ticks, classes, rotation=90, fontsize=size)
    ax.set_yticks(ticks, classes, fontsize=size)
    ax.set_xlabel('predicted')
    ax.set_ylabel('ground truth')
    if len(classes) <= _NUMBERED:
        for (row, column), value in np.ndenumerate(percent):
            if counts[row, column]:
                colour = 'white' if value > 50 else 'black'
                number = f'{value:.0f}' if value >= 1 else '<1'
                ax.text(
                    column,
                    row,
                    number,
                    ha='center',
                    va='center',
                    color=colour,
                    fontsize=7,
                )
    return figure


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Count the matrix and save its figure."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    check_complete(cfg, ['test_dataloader'])
    check_file(args.predictions, 'predictions', 'tools/test.py --out writes them')
    counts, classes = count(cfg, load(args.predictions), args)
    rows = [
        (classes[truth], classes[found], int(number))
        for (truth, found), number in np.ndenumerate(counts)
    ]
    head = ('truth', 'predicted', 'count')
    print('written:', *plots.save(draw(counts, classes), args.out, head, rows))


if __name__ == '__main__':
    main()
