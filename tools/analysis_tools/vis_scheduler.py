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
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from mmrla.engine.errors import UserError, one_line_errors


@one_line_errors
def main() -> None:
    """Plot."""
    spec = find_spec('mmpretrain')
    if spec is None or spec.origin is None:
        raise UserError("mmpretrain is not installed: pip install 'mmrla[mmpretrain]'")
    tool = Path(spec.origin).parent / '.mim/tools/visualization/vis_scheduler.py'
    if not tool.is_file():
        raise UserError(f'{tool} is missing; install mmpretrain again')
    sys.argv[0] = str(tool)
    with TemporaryDirectory() as work_dir:
        # Of the simulated training only the plot is to stay.
        sys.argv += ['--cfg-options', f'work_dir={work_dir}']
        runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
