#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Plot the schedule of learning rate, momentum or weight decay of a config.

Runs mmpretrain's tool of the same name, also for mmdet configs; -h lists its options.
--save-path is written as PNG, SVG and CSV. The number of images sets the iterations per
epoch; a small number is fast and gives the same curve (except for a warm-up counted in
iterations):

    vis_scheduler.py CONFIG --dataset-size 12800 --save-path lr.png --not-show
"""

import argparse
import sys
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Sequence

from mmrla.analysis import plots
from mmrla.engine.errors import one_line_errors
from mmrla.engine.upstream import load_tool


def save_curve(
    values: Sequence[float], args: argparse.Namespace, name: str, epoch: int
) -> None:
    """Draw and save a curve.

    Args:
        values: The value at each iteration.
        args: Options of mmpretrain's tool.
        name: What the values are.
        epoch: Iterations in an epoch; 0 where there are no epochs.
    """
    figure, axes = plots.add_figure()
    unit, length = ('epoch', epoch) if epoch else ('iteration', 1)
    times = [i / length for i in range(len(values))]
    axes[0, 0].plot(times, values, **{**plots.line_style(0), 'marker': None})
    title = args.title or args.config.rpartition('/')[2]
    axes[0, 0].set(xlabel=unit, ylabel=name.lower(), title=title, ylim=(0, None))
    files = plots.save(
        figure,
        args.save_path.with_suffix(''),
        (unit, args.parameter),
        zip(times, values),
    )
    print('written:', *files)


def use_own_figures(tool: ModuleType) -> None:
    """Make mmpretrain's tool save figures like the other tools here."""
    show = tool.plot_curve

    def plot_curve(
        values: Sequence[float],
        args: argparse.Namespace,
        name: str,
        iters_per_epoch: int,
        by_epoch: bool = True,
    ) -> None:
        if args.save_path:
            save_curve(values, args, name, iters_per_epoch if by_epoch else 0)
            args.save_path = None
        if not args.not_show:
            show(values, args, name, iters_per_epoch, by_epoch)

    tool.plot_curve = plot_curve  # type: ignore[attr-defined]


@one_line_errors
def main() -> None:
    """Run mmpretrain's tool with our figures."""
    tool = load_tool('mmpretrain', 'visualization/vis_scheduler.py')
    use_own_figures(tool)
    with TemporaryDirectory() as work_dir:
        # Keep only the plot of the simulated training.
        sys.argv += ['--cfg-options', f'work_dir={work_dir}']
        tool.main()


if __name__ == '__main__':
    main()
