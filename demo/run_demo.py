#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The demo: an RLA detector with masks learns handwritten digits, without a GPU.

Makes the data set, trains with tools/train.py, tests with tools/test.py and draws
what came out. What is there already is used again: a finished training is not
repeated, an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[1]
# A clone that is not installed works as well.
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402

from mmrla import __version__  # noqa: E402
from mmrla.analysis import plots  # noqa: E402
from mmrla.analysis.runs import (  # noqa: E402
    CURVES_HEAD,
    by_step,
    curves_table,
    draw_curves,
    read_run,
    read_scalars,
)
from mmrla.datasets.digit_scenes import (  # noqa: E402
    DigitSceneParams,
    ensure_digit_scenes,
)
from mmrla.engine.config import load_config  # noqa: E402
from mmrla.engine.errors import one_line_errors  # noqa: E402
from mmrla.engine.launch import environment_of  # noqa: E402
from mmrla.errors import UserError  # noqa: E402

CONFIG = ROOT / 'configs/demo/mask-rcnn_rla-r50-thin_fpn_1xb8-8e_digits.py'
DATA_DIR = ROOT / 'data/digit_scenes'
WORK_DIR = ROOT / 'work_dirs/demo'
# What the demo promises for its own settings.
MIN_BOX_AP, MIN_MASK_AP = 0.70, 0.55
STATE = 'demo.json'
TRAIN_LOG, TEST_LOG = 'train.log', 'test.log'


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """The options of the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=WORK_DIR,
        help='folder for the results; default: work_dirs/demo of this clone',
    )
    parser.add_argument(
        '--data-dir',
        type=Path,
        default=DATA_DIR,
        help='folder of the data set; default: data/digit_scenes of this clone',
    )
    parser.add_argument(
        '--fresh',
        action='store_true',
        help='train anew; former results are moved to WORK_DIR/earlier',
    )
    parser.add_argument('--epochs', type=int, help="default: the config's, 8")
    scenes = DigitSceneParams()
    parser.add_argument('--train-scenes', type=int, default=scenes.num_train)
    parser.add_argument('--val-scenes', type=int, default=scenes.num_val)
    parser.add_argument(
        '--min-box-ap',
        type=float,
        help=f'fail below this box AP; default: {MIN_BOX_AP}, or 0 if other options '
        'change the training',
    )
    parser.add_argument(
        '--min-mask-ap', type=float, help=f'likewise; default: {MIN_MASK_AP}, or 0'
    )
    args = parser.parse_args(argv)
    if args.epochs is not None and args.epochs < 1:
        parser.error(f'--epochs {args.epochs}: at least 1 is needed')
    return args


# --- showing progress ---------------------------------------------------------


def say(text: str = '') -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)


def shown(path: Path) -> str:
    """A path as short as the user can use it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith('..') else relative


def clock(seconds: float) -> str:
    """Minutes and seconds, like 3:07."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes}:{rest:02d}'


class Progress:
    """A line that is rewritten on a terminal, and now and then one elsewhere.

    Args:
        interval: Seconds between two lines where there is no terminal.
    """

    def __init__(self, interval: float = 20.0) -> None:
        self.interval = interval
        self.is_terminal = sys.stdout.isatty()
        self._last, self._width = 0.0, 0

    def update(self, text: str) -> None:
        """Shows where things stand."""
        if self.is_terminal:
            print(f'\r{text:<{self._width}}', end='', flush=True)
            self._width = len(text)
        elif time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            say(text)

    def done(self, text: str) -> None:
        """Shows a line that stays."""
        self._last = time.monotonic()
        say(f'\r{text:<{self._width}}' if self.is_terminal else text)
        self._width = 0


# --- the tools ----------------------------------------------------------------


@contextmanager
def exclusive(work_dir: Path) -> Iterator[int]:
    """Keeps other runs out of a folder.

    Yields:
        A file descriptor. Processes that inherit it keep the folder locked, also
        when this one is killed.

    Raises:
        UserError: If another run is at work in the folder.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / '.lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f'another run is at work in {shown(work_dir)}: wait until it has '
                'finished, or name another folder with --work-dir',
                status=1,
            ) from None
        yield file.fileno()


def train_processes() -> int:
    """Two on a CPU with the cores for them: half the steps' time is Python's."""
    cores = len(os.sched_getaffinity(0))
    return 1 if torch.cuda.is_available() else min(cores, 2)


def tool_environment(processes: int) -> Dict[str, str]:
    """The environment of the tools, run by so many processes."""
    env = environment_of(ROOT)
    # The net is too thin for many threads.
    threads = min(len(os.sched_getaffinity(0)) // processes, 4)
    env.setdefault('OMP_NUM_THREADS', str(threads))
    # Threads that spin while they wait stand in each other's way as soon as
    # anything else runs on the machine: steps then take ten times as long.
    env.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    return env


def run_tool(
    name: str,
    arguments: Sequence[str],
    log: Path,
    lock: int,
    poll: Optional[Callable[[], None]] = None,
    processes: int = 1,
) -> None:
    """Runs a tool of this clone; what it prints goes to a file.

    Args:
        name: File name of the tool.
        arguments: Its arguments.
        log: File to append its output to.
        lock: Descriptor that the tool shall hold.
        poll: Called twice a second while the tool runs.
        processes: Processes that share the work, as with tools/dist_train.sh.

    Raises:
        UserError: If the tool fails, with its last line.
    """
    command = [str(ROOT / 'tools' / name), *arguments]
    if processes > 1:
        start_all = [str(ROOT / 'tools/dist_run.py'), str(processes)]
        command = [*start_all, *command, '--launcher', 'pytorch']
    command.insert(0, sys.executable)
    with log.open('a') as output:
        output.write(f'\n$ {" ".join(command)}\n')
        output.flush()
        start = output.tell()
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            # Where the config's own data root is.
            cwd=ROOT,
            env=tool_environment(processes),
            pass_fds=[lock],
        )
    try:
        while process.poll() is None:
            time.sleep(0.5)
            if poll:
                poll()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        with log.open('rb') as output:
            output.seek(start)
            lines = output.read().decode(errors='replace').split('\n')
        last = next((line for line in reversed(lines) if line.strip()), 'no output')
        raise UserError(
            f'tools/{name} failed with status {process.returncode}: {last.strip()} '
            f'(all of it: {shown(log)})',
            status=1,
        )


# --- the steps ----------------------------------------------------------------


def make_data(data_dir: Path, params: DigitSceneParams) -> None:
    """Makes the data set unless it is there, whole and as asked for."""
    start = time.monotonic()
    say(f'[1/4] Data set in {shown(data_dir)}')
    try:
        problem = ensure_digit_scenes(data_dir, params)
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from error
    made = f'{problem}: made in {clock(time.monotonic() - start)}' if problem else ''
    say(f'  {params.num_train} training and {params.num_val} validation scenes')
    say(f'  it {made or "is complete and is used again"}')


def read_config(args: argparse.Namespace) -> Tuple[Config, bool]:
    """The demo's config with the options in it, and whether they change it."""
    cfg = load_config(str(CONFIG))
    changed = False
    if args.epochs is not None:
        cfg.train_cfg.max_epochs = args.epochs
        cosine = cfg.param_scheduler[-1]
        cosine.T_max = cosine.end = args.epochs
        changed = True
    if args.data_dir != DATA_DIR:
        for part in ('train', 'val', 'test'):
            cfg[f'{part}_dataloader'].dataset.data_root = str(args.data_dir)
        ann_file = str(args.data_dir / 'annotations/instances_val.json')
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = ann_file
        changed = True
    return cfg, changed


def save_config(cfg: Config, work_dir: Path) -> Config:
    """Writes a changed config to where the tools can read it."""
    path = work_dir / 'config' / CONFIG.name
    path.parent.mkdir(exist_ok=True)
    cfg.dump(path)
    return load_config(str(path))


def fingerprint(cfg: Config, params: DigitSceneParams) -> str:
    """Changes with whatever changes the outcome of the training."""
    text = json.dumps([cfg.to_dict(), params.fingerprint(), __version__], default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_state(work_dir: Path) -> Dict[str, Any]:
    """What an earlier run has noted; empty if there was none."""
    try:
        state = json.loads((work_dir / STATE).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def write_state(work_dir: Path, **state: Any) -> None:
    """Notes what is being trained, and what came out, in one step."""
    partial = work_dir / f'.{STATE}.partial'
    partial.write_text(json.dumps(state, indent=1))
    partial.replace(work_dir / STATE)


def put_aside(work_dir: Path) -> None:
    """Moves the results of another training to a folder of their own."""
    paths = [p for p in work_dir.iterdir() if p.name not in ('.lock', 'earlier')]
    if not paths:
        return
    if not (work_dir / STATE).is_file():
        raise UserError(
            f'{shown(work_dir)} holds other things than results of the demo: name '
            'another folder with --work-dir'
        )
    earlier = work_dir / 'earlier' / time.strftime('%Y%m%d_%H%M%S')
    earlier.mkdir(parents=True)
    for path in paths:
        path.rename(earlier / path.name)
    say(f'  the results that were there are in {shown(earlier)} now')


def file_hash(path: Path) -> Optional[str]:
    """SHA-256 of a file, None if there is no such file."""
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(
    cfg: Config, params: DigitSceneParams, target: str, work_dir: Path, lock: int
) -> Path:
    """Trains, or goes on, or finds that all is done.

    Args:
        cfg: The config that the tool gets.
        params: The data set.
        target: Fingerprint of the training.
        work_dir: Where its results go.
        lock: Descriptor that the tool shall hold.

    Returns:
        The last checkpoint.
    """
    epochs = cfg.train_cfg.max_epochs
    checkpoint = work_dir / f'epoch_{epochs}.pth'
    state = read_state(work_dir)
    if state.get('sha256') and state['sha256'] == file_hash(checkpoint):
        say(f'  {shown(checkpoint)} is finished and is used again')
        return checkpoint

    arguments = [cfg.filename, '--work-dir', str(work_dir), '--resume', 'auto']
    processes = train_processes()
    per_process = cfg.train_dataloader.batch_size // processes
    arguments += ['--cfg-options', f'train_dataloader.batch_size={per_process}']
    log = work_dir / TRAIN_LOG
    tool = 'tools/train.py' if processes == 1 else 'tools/dist_train.sh'
    counted = '' if processes == 1 else f' {processes}'
    say(f'  {tool} {shown(Path(cfg.filename))}{counted}')
    say(f'  its log: {shown(log)}')
    write_state(work_dir, fingerprint=target)
    iterations = epochs * math.ceil(params.num_train / cfg.train_dataloader.batch_size)
    follower = Follower(work_dir, iterations, epochs)
    run_tool('train.py', arguments, log, lock, follower.poll, processes)
    follower.finish()
    write_state(work_dir, fingerprint=target, sha256=file_hash(checkpoint))
    return checkpoint


class Follower:
    """Shows how far a training is, from what it logs.

    Args:
        work_dir: Folder of the training.
        iterations: Number of iterations of the whole training.
        epochs: Number of epochs of the whole training.
    """

    def __init__(self, work_dir: Path, iterations: int, epochs: int) -> None:
        self.work_dir = work_dir
        self.iterations = iterations
        self.epochs = epochs
        self.progress = Progress()
        # Only what this session logs tells its speed.
        self.known = len(read_scalars(work_dir))
        self.start = time.monotonic()
        self.first: Optional[Tuple[int, float]] = None
        self.shown_epochs: Set[int] = set()

    def poll(self) -> None:
        """Shows what is new."""
        records = read_scalars(self.work_dir)[self.known :]
        losses = by_step(records, 'loss')
        if not losses:
            self.progress.update(f'  starting ... {clock(self._elapsed())}')
            return
        self._show_epochs(records, losses)
        step, loss = list(losses.items())[-1]
        now = time.monotonic()
        if self.first is None:
            self.first = (step, now)
        line = f'  iteration {step}/{self.iterations}   loss {loss:.3f}'
        if step > self.first[0]:
            pace = (now - self.first[1]) / (step - self.first[0])
            line += f'   {clock(pace * (self.iterations - step))} left'
        self.progress.update(f'{line}   ')

    def finish(self) -> None:
        """Shows what the last poll has missed."""
        records = read_scalars(self.work_dir)[self.known :]
        self._show_epochs(records, by_step(records, 'loss'))
        self.progress.done(f'  trained in {clock(self._elapsed())}')

    def _elapsed(self) -> float:
        return time.monotonic() - self.start

    def _show_epochs(
        self, records: List[Dict[str, Any]], losses: Dict[int, float]
    ) -> None:
        mask_ap = by_step(records, 'coco/segm_mAP')
        for epoch, box_ap in by_step(records, 'coco/bbox_mAP').items():
            if epoch in self.shown_epochs:
                continue
            self.shown_epochs.add(epoch)
            last = epoch * self.iterations // self.epochs
            loss = [value for step, value in losses.items() if step <= last][-1:]
            self.progress.done(
                f'  epoch {epoch}/{self.epochs}'
                + (f'   loss {loss[0]:.3f}' if loss else '')
                + f'   box AP {box_ap:.3f}   mask AP {mask_ap[epoch]:.3f}'
                + f'   after {clock(self._elapsed())}'
            )


def evaluate(
    cfg: Config, checkpoint: Path, work_dir: Path, lock: int
) -> Dict[str, float]:
    """Tests a checkpoint and prints the COCO tables.

    Returns:
        The metrics by name, like 'coco/bbox_mAP'.
    """
    test_dir = work_dir / 'test'
    test_dir.mkdir(exist_ok=True)
    arguments = [cfg.filename, str(checkpoint), '--work-dir', str(test_dir)]
    arguments += ['--out', str(test_dir / 'predictions.pkl')]
    say(f'  tools/test.py {shown(Path(cfg.filename))} {shown(checkpoint)}')
    log = work_dir / TEST_LOG
    before = log.stat().st_size if log.exists() else 0
    run_tool('test.py', arguments, log, lock)
    output = log.read_bytes()[before:].decode(errors='replace')
    for line in output.splitlines():
        heading = re.search(r'Evaluating (bbox|segm)\.\.\.', line)
        if heading:
            say(f'  {"Boxes" if heading[1] == "bbox" else "Masks"}')
        elif re.match(r' ?Average (Precision|Recall)', line.strip()):
            say(f'   {line.rstrip()}')
    # One folder, named by the time, for each test.
    results = max(p for p in test_dir.glob('*/*.json') if p.stem == p.parent.name)
    return json.loads(results.read_text())


def draw(data_dir: Path, work_dir: Path) -> List[str]:
    """Draws the pictures.

    Returns:
        What they show, and where they are.
    """
    from pictures import draw_predictions

    run = [read_run(work_dir, 'demo')]
    keys = ['loss', 'coco/bbox_mAP', 'coco/segm_mAP']
    curves = draw_curves(run, keys)
    plots.save(curves, work_dir / 'curves', CURVES_HEAD, curves_table(run, keys))
    overview, *scenes = draw_predictions(
        data_dir, work_dir / 'test' / 'predictions.pkl', work_dir / 'predictions'
    )
    return [
        f'loss and AP curves        {shown(work_dir / "curves.png")}',
        f'predictions, {len(scenes):2d} scenes    {shown(scenes[0].parent)}/',
        f'six of them in one        {shown(overview)}',
    ]


@one_line_errors
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Runs the demo."""
    args = parse_args(argv)
    args.work_dir, args.data_dir = args.work_dir.resolve(), args.data_dir.resolve()
    try:
        params = DigitSceneParams(num_train=args.train_scenes, num_val=args.val_scenes)
    except ValueError as error:
        raise UserError(str(error)) from error
    is_plain = args.epochs is None and params == DigitSceneParams()
    start = time.monotonic()
    # So that `kill` ends the tools as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with exclusive(args.work_dir) as lock:
        make_data(args.data_dir, params)
        say('[2/4] Training a Mask R-CNN with a thin RLA-ResNet-50')
        cfg, changed = read_config(args)
        target = fingerprint(cfg, params)
        if args.fresh or read_state(args.work_dir).get('fingerprint') != target:
            put_aside(args.work_dir)
        if changed:
            cfg = save_config(cfg, args.work_dir)
        in_one_go = not read_scalars(args.work_dir)
        checkpoint = train(cfg, params, target, args.work_dir, lock)
        say('[3/4] Evaluation on scenes of digits that it has never seen')
        metrics = evaluate(cfg, checkpoint, args.work_dir, lock)
        say('[4/4] Pictures')
        pictures = draw(args.data_dir, args.work_dir)
        if in_one_go:
            metrics['seconds'] = round(time.monotonic() - start)
        state = read_state(args.work_dir)
        state['outcome'] = {**state.get('outcome', {}), **metrics}
        write_state(args.work_dir, **state)
    say()
    say(f'Finished in {clock(time.monotonic() - start)}. What there is now:')
    for line in [f'checkpoint                {shown(checkpoint)}', *pictures]:
        say(f'  {line}')
    say()
    check_ap('box', metrics['coco/bbox_mAP'], args.min_box_ap, MIN_BOX_AP, is_plain)
    check_ap('mask', metrics['coco/segm_mAP'], args.min_mask_ap, MIN_MASK_AP, is_plain)


def check_ap(
    name: str, value: float, asked: Optional[float], usual: float, is_plain: bool
) -> None:
    """Prints an AP and raises UserError if it is lower than it should be."""
    least = asked if asked is not None else usual if is_plain else 0.0
    say(f'{name} AP {value:.3f} (expected: {least:.2f} or more)')
    if value < least:
        raise UserError(
            f'{name} AP {value:.3f} is below {least:.2f}: the training has gone wrong',
            status=1,
        )


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        say('\ninterrupted: the same command goes on from the last whole epoch')
        sys.exit(130)
