#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Plot the learning rate, momentum or weight decay of a config's training.

Runs mmpretrain's tool of this name, for mmdet configs too; -h lists its options. The
number of images sets the iterations in an epoch, so a small one is fast and shows
the same curve (but for a warm-up that is counted in iterations):

    vis_scheduler.py CONFIG --dataset-size 12800 --save-path lr.png --not-show
"""

import runpy
import sys
from tempfile import TemporaryDirectory

from mmrla.engine.errors import one_line_errors
from mmrla.engine.upstream import tool_path


@one_line_errors
def main() -> None:
    """Plot."""
    tool = tool_path('mmpretrain', 'visualization/vis_scheduler.py')
    sys.argv[0] = str(tool)
    with TemporaryDirectory() as work_dir:
        # Of the simulated training only the plot is to stay.
        sys.argv += ['--cfg-options', f'work_dir={work_dir}']
        runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
