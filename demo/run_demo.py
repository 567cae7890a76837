#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The demo: an RLA detector with masks learns handwritten digits, without a GPU.

Makes the data set, trains, tests and draws, each by the command that it prints. What
is there already is used again: an interrupted training goes on.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parents[1]
# A clone that is not installed works as well.
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from mmrla.datasets.digit_scenes import (  # noqa: E402
    DigitSceneParams,
    ensure_digit_scenes,
)
from mmrla.engine.errors import one_line_errors  # noqa: E402
from mmrla.engine.launch import environment_of  # noqa: E402
from mmrla.errors import UserError  # noqa: E402

CONFIG = ROOT / 'configs/demo/mask-rcnn_rla-r18-thin_fpn_1xb8-6e_digits.py'
DATA = Path('data/digit_scenes')  # as in the config
BATCH_SIZE = 8  # of all processes together
# What the demo promises for its own settings.
EXPECTED = {'coco/bbox_mAP': 0.70, 'coco/segm_mAP': 0.55}
# What the terminal shows of a tool's log: where it stands; COCO's tables of a test.
PROGRESS = r'Epoch\(\w+\)\s+\[.*\](?=\s)|\b(?:eta|loss|coco/\w+_mAP): \S+'
TABLE = r'Average (?:Precision|Recall) .*'


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--work-dir', type=Path, default='work_dirs/demo')
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='train anew; checkpoints of before are moved to WORK_DIR/earlier',
    )
    scenes = DigitSceneParams()
    parser.add_argument('--train-scenes', type=int, default=scenes.num_train)
    parser.add_argument('--val-scenes', type=int, default=scenes.num_val)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='changes of the config, as for tools/train.py',
    )
    return parser.parse_args(argv)


def run_tool(log: Path, name: str, *arguments: Any, shown: str = PROGRESS) -> None:
    """Run a program of this clone; its output goes to a file.

    Args:
        log: The file, to which is appended.
        name: The program's path in the clone.
        *arguments: Its arguments.
        shown: Regular expression of what is shown of its output as well.

    Raises:
        UserError: It fails; its last line is in the message.
    """
    kind = [sys.executable] if name.endswith('.py') else ['bash']
    command = [*kind, str(ROOT / name), *map(str, arguments)]
    print(f'  {name} {" ".join(command[len(kind) + 1 :])}\n  its output: {log}')
    line = ''
    with log.open('a', buffering=1) as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env=tool_environment(),
        )
        assert process.stdout is not None
        try:
            for text in process.stdout:
                file.write(text)
                line = text.strip() or line
                found = re.findall(shown, text)
                if found:
                    show(' '.join(found))
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if sys.stdout.isatty():
        print('\r\x1b[K', end='')  # of a passing line
    if process.wait():
        raise UserError(f'{name} failed: {line} (all of it: {log})', status=1)


def show(text: str) -> None:
    """Print a line; in a terminal, the next one takes the place of a passing one."""
    if not sys.stdout.isatty():
        print(f'    {text}')
    else:
        print(f'\r    {text}\x1b[K', end='' if ' eta: ' in text else '\n', flush=True)


def tool_environment() -> Dict[str, str]:
    """The environment of the programs."""
    env = {**environment_of(ROOT), 'PYTHON': sys.executable}
    # The net is too thin for many threads, and those that spin while they wait stand
    # in each other's way as soon as anything else runs on the machine.
    threads = min(len(os.sched_getaffinity(0)) // processes(), 4)
    return {'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'PASSIVE', **env}


def processes() -> int:
    """Two on a CPU with the cores for them: half the steps' time is Python's."""
    cores = len(os.sched_getaffinity(0))
    return 1 if torch.cuda.is_available() else min(cores, 2)


def make_data(params: DigitSceneParams) -> None:
    """Make the data set unless it is there, whole and as asked for."""
    print(f'[1/4] {params.num_train} training, {params.num_val} validation scenes')
    try:
        problem = ensure_digit_scenes(DATA, params)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    print(f'  {DATA} {problem}: made' if problem else f'  {DATA} is used again')


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Run the demo."""
    args = parse_args(argv)
    start = time.monotonic()
    # Where it stands, also in a pipe.
    getattr(sys.stdout, 'reconfigure', lambda **_: None)(line_buffering=True)
    # So that `kill` ends the programs as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        params = DigitSceneParams(num_train=args.train_scenes, num_val=args.val_scenes)
    except ValueError as error:
        raise UserError(str(error)) from error
    work_dir = args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    make_data(params)

    print('[2/4] Training a Mask R-CNN with a thin RLA-ResNet-18')
    batch = f'train_dataloader.batch_size={BATCH_SIZE // processes()}'
    resume = [] if args.fresh else ['--resume', 'auto']
    run_tool(
        work_dir / 'train.log',
        'tools/dist_train.sh',
        *(CONFIG, processes(), '--work-dir', work_dir, *resume),
        *('--cfg-options', batch, *args.cfg_options),
    )
    checkpoint = Path((work_dir / 'last_checkpoint').read_text())

    print('[3/4] Evaluation on scenes of digits that it has never seen')
    run_tool(
        work_dir / 'test.log',
        'tools/dist_test.sh',
        *(CONFIG, checkpoint, processes(), '--work-dir', work_dir / 'test'),
        *(['--cfg-options', *args.cfg_options] if args.cfg_options else []),
        shown=TABLE,
    )
    # One folder, named by the time, for each test.
    results = max(p for p in work_dir.glob('test/*/*.json') if p.stem == p.parent.name)
    metrics = json.loads(results.read_text())

    print('[4/4] Pictures')
    images = sorted((DATA / 'val').glob('*.jpg'))[:12]
    pictures, curves = work_dir / 'pictures', work_dir / 'curves'
    log = work_dir / 'pictures.log'
    run_tool(log, 'demo/detect_image.py', checkpoint, *images, '--out-dir', pictures)
    keys = 'loss', *EXPECTED
    curve_options = work_dir, '--out', curves, '--keys', *keys
    run_tool(log, 'tools/analysis_tools/plot_curves.py', *curve_options)

    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    print(f'\nFinished in {minutes}:{seconds:02d}. What there is now:')
    print(f'  {checkpoint}\n  {curves}.png\n  {pictures}/vis\n')
    check(metrics, is_plain=not args.cfg_options and params == DigitSceneParams())


def check(metrics: Dict[str, float], is_plain: bool) -> None:
    """Print the APs.

    Raises:
        UserError: One is lower than it should be, with the demo's own settings.
    """
    low = []
    for name, least in EXPECTED.items():
        text = f'{name} {metrics[name]:.3f} (expected: {least:.2f} or more)'
        print(text)
        low += [text] if metrics[name] < least else []
    if low and is_plain:
        raise UserError(f'{"; ".join(low)}: the training has gone wrong', status=1)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on from the last whole epoch')
        sys.exit(130)
