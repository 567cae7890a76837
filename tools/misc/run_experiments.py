#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Run experiments of mmrla.analysis.experiments: networks against each other.

Each network and seed is trained by tools/train.py and tested by tools/test.py, in
processes of their own, and leaves a line of JSON. What has its line is not run
again; a run that was killed goes on from its last checkpoint. Seed 0 of all comes
first, then seed 1: an interrupted call leaves a balanced set.

Examples:
    python tools/misc/run_experiments.py cifar10 --jobs 2 --threads 1
    python tools/misc/run_experiments.py all --data cifar10=data/cifar10_jpeg
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config

from mmrla.analysis.experiments import (
    EXPERIMENTS,
    Experiment,
    Network,
    data_root_of,
    fit_scores,
    iterations,
    read_lines,
    short_config,
    size_scores,
)
from mmrla.analysis.runs import by_step, read_run, read_scalars
from mmrla.datasets.digit_scenes import ensure_digit_scenes
from mmrla.engine.config import name_and_folder
from mmrla.engine.errors import one_line_errors
from mmrla.engine.launch import environment_of
from mmrla.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'docs/evidence.jsonl'
WORK_DIR = ROOT / 'work_dirs/evidence'
# Of what a run depends on, in git.
_CODE = ('mmrla', 'configs', 'tools')
# Seconds between two lines about the same run.
_SILENCE = 60


class Run(NamedTuple):
    """A network with a seed."""

    experiment: Experiment
    network: Network
    seed: int

    @property
    def key(self) -> Tuple[str, str, int]:
        """What tells it from others in the results."""
        return self.experiment.name, self.network.label, self.seed

    @property
    def folder(self) -> str:
        """Its folder."""
        label = self.network.label.lower().replace(', ', '-').replace(' ', '-')
        return f'{self.experiment.name}/{label}/seed{self.seed}'

    def __str__(self) -> str:
        return f'{self.experiment.name}, {self.network.label}, seed {self.seed}'


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'names',
        nargs='+',
        choices=[*EXPERIMENTS, 'all'],
        metavar='NAME',
        help=f'{", ".join(EXPERIMENTS)}, or all',
    )
    parser.add_argument(
        '--networks', nargs='+', metavar='LABEL', help='only these, like ResNet-110'
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, help="instead of the experiment's, 0 1 2"
    )
    parser.add_argument(
        '--data',
        nargs='+',
        type=name_and_folder,
        default=[],
        metavar='NAME=FOLDER',
        help='folders of data sets (cifar10, digits, coco); otherwise those of the '
        'configs, below the root of the clone',
    )
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (1)')
    parser.add_argument(
        '--threads', type=int, help='of a run; by default the cores are divided'
    )
    parser.add_argument(
        '--out', type=Path, default=RESULTS, help='the results (docs/evidence.jsonl)'
    )
    parser.add_argument(
        '--work-dir', type=Path, default=WORK_DIR, help='(work_dirs/evidence)'
    )
    args = parser.parse_args(argv)
    args.data = dict(args.data)
    for option in ('jobs', 'threads'):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f'--{option} {value}: at least 1 is needed')
    args.threads = args.threads or max(len(os.sched_getaffinity(0)) // args.jobs, 1)
    args.names = list(EXPERIMENTS) if 'all' in args.names else args.names
    known = [n.label for name in args.names for n in EXPERIMENTS[name].networks]
    for label in args.networks or []:
        if label not in known:
            parser.error(
                f'--networks: {label!r} is in none of {", ".join(args.names)}; there '
                f'are {", ".join(map(repr, dict.fromkeys(known)))}'
            )
    return args


def plan(args: argparse.Namespace) -> List[Run]:
    """What is asked for, seed by seed."""
    runs = [
        Run(EXPERIMENTS[name], network, seed)
        for name in dict.fromkeys(args.names)
        for network in EXPERIMENTS[name].networks
        if not args.networks or network.label in args.networks
        for seed in args.seeds or EXPERIMENTS[name].seeds
    ]
    return sorted(runs, key=lambda run: run.seed)


def say(text: str) -> None:
    """Print at once, with the time."""
    print(f'{time.strftime("%H:%M:%S")} {text}', flush=True)


def clock(seconds: float) -> str:
    """Hours and minutes, like 1:07."""
    minutes = round(seconds / 60)
    return f'{minutes // 60}:{minutes % 60:02d}'


def commit() -> str:
    """The commit of this clone, with a plus sign if its code was changed since.

    Returns:
        'unknown' outside of a clone, or without git.
    """
    program = shutil.which('git')

    def git(*arguments: str) -> str:
        if program is None:
            return ''
        done = subprocess.run(
            [program, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        return done.stdout.strip() if not done.returncode else ''

    head = git('rev-parse', '--short=12', 'HEAD') or 'unknown'
    return head + ('+' if git('status', '--porcelain', '--', *_CODE) else '')


def data_hash(folder: Path) -> str:
    """16 hex digits that change with any file of a data set."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        total.update(f'{path.relative_to(folder).as_posix()}\n'.encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def device_name() -> str:
    """The GPU's name, else the CPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.is_file() else []:
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


class Job:
    """A run under way: the training, then the test.

    Args:
        run: The run.
        args: The options.
        facts: What its line says of code, data and machine.
    """

    def __init__(
        self, run: Run, args: argparse.Namespace, facts: Dict[str, Any]
    ) -> None:
        self.run = run
        self.work_dir = args.work_dir / run.folder
        self.facts = facts
        self.error = ''
        self.result: Dict[str, float] = {}
        self.threads = args.threads
        self.out: Path = args.out
        self.process: Optional[subprocess.Popen] = None
        self.tool = ''
        self.seconds: Dict[str, List[float]] = {}
        self._said = time.monotonic()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        # Its processes inherit it: a folder stays locked when this one is killed.
        self.lock = (self.work_dir / '.lock').open('w')
        self.config = self.work_dir / 'config' / f'{Path(run.network.config).stem}.py'
        self.data_root: Optional[str] = args.data.get(run.experiment.data)

    def start(self) -> None:
        """Begin, or go on with what a killed call has left."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.error = f'another process is at work in {self.work_dir}'
            return
        try:
            self.cfg: Config = short_config(*self.run, self.data_root)
        except UserError as error:
            self.error = str(error)
            return
        before = self.config.read_text() if self.config.is_file() else None
        self.config.parent.mkdir(exist_ok=True)
        self.cfg.dump(self.config)
        self.in_one_go = before != self.config.read_text() or not any(
            self.work_dir.glob('*.pth')
        )
        if self.in_one_go:
            self._clear()
        self._start('train', '--resume', 'auto')

    def poll(self) -> bool:
        """Go on if a tool has ended; whether all is done, or has failed."""
        if self.process is None:
            return True
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            self._say_progress()
            return False
        self.process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - self._started
        self.seconds[self.tool] = [wall, usage.ru_utime + usage.ru_stime]
        if self.process.returncode:
            lines = self._log.read_text(errors='replace').strip().splitlines()
            last = lines[-1] if lines else 'no output'
            self.error = f'tools/{self.tool}.py: {last} (all of it: {self._log})'
            return True
        if self.tool == 'train':
            self._start('test', str(read_run(self.work_dir).checkpoint()))
            return False
        self._record()
        return True

    def stop(self) -> None:
        """End its process, if there is one."""
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            self.process.wait()

    def _start(self, tool: str, *arguments: str) -> None:
        env = {**environment_of(ROOT), 'OMP_NUM_THREADS': str(self.threads)}
        command = [sys.executable, str(ROOT / f'tools/{tool}.py'), str(self.config)]
        command += [*arguments, '--work-dir', str(self.work_dir)]
        if tool == 'test' and self._is_detector:
            results = f'test_evaluator.outfile_prefix={self.work_dir / "results"}'
            command += ['--cfg-options', results]
        self.tool, self._started = tool, time.monotonic()
        self._log = self.work_dir / f'{tool}.log'
        with self._log.open('w') as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=env,
                pass_fds=[self.lock.fileno()],
            )

    def _clear(self) -> None:
        """Remove what is left of another config, or of a run that has its line."""
        for path in self.work_dir.iterdir():
            if path.name in ('.lock', 'config'):
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _say_progress(self) -> None:
        if time.monotonic() - self._said < _SILENCE:
            return
        self._said = time.monotonic()
        losses = by_step(read_scalars(self.work_dir), 'loss')
        step = max(losses, default=0)
        total = iterations(self.run.experiment, self.cfg)
        say(f'  {self.run}: {self.tool}, iteration {step} of {total}')

    @property
    def _is_detector(self) -> bool:
        return bool(self.cfg.default_scope == 'mmdet')

    def scores(self) -> Dict[str, float]:
        """What the run has given."""
        # COCO's -1 stands for sizes that no object has.
        tests = read_run(self.work_dir).tests
        scores = {key: value for key, value in tests.items() if value >= 0}
        levels = self.run.experiment.loss_levels
        if levels:
            losses = by_step(read_scalars(self.work_dir), 'loss')
            cpu = self.seconds['train'][1] if self.in_one_go else None
            scores.update(fit_scores(losses, levels, cpu))
        for kind in ('bbox', 'segm'):
            results = self.work_dir / f'results.{kind}.json'
            if results.is_file() and not levels:
                ann_file = ROOT / self.cfg.test_evaluator.ann_file
                scores.update(size_scores(ann_file, results, kind))
        return {key: round(value, 4) for key, value in scores.items()}

    def _record(self) -> None:
        experiment = self.run.experiment
        self.result = self.scores()
        total = iterations(experiment, self.cfg)
        images = total * self.cfg.train_dataloader.batch_size
        line = dict(
            experiment=experiment.name,
            network=self.run.network.label,
            config=self.config.stem,
            seed=self.run.seed,
            epochs=round(images / experiment.train_images, 3),
            iterations=total,
            images=images,
            test_images=experiment.test_images,
            scores=self.result,
            **self.facts,
            date=time.strftime('%Y-%m-%d'),
        )
        for tool, (wall, cpu) in self.seconds.items():
            if tool == 'train' and not self.in_one_go:
                continue  # what came before the kill is not known
            line[f'{tool}_seconds'] = round(wall, 1)
            line[f'{tool}_cpu_seconds'] = round(cpu, 1)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
        # The line is what is kept.
        for path in self.work_dir.glob('*.pth'):
            path.unlink()


def prepare_data(runs: List[Run], args: argparse.Namespace) -> Dict[str, str]:
    """Make the digit scenes that are missing; the hash of each data set.

    Raises:
        UserError: If a data set is not there.
    """
    hashes: Dict[str, str] = {}
    for run in runs:
        name = run.experiment.data
        if name in hashes:
            continue
        cfg: Config = short_config(*run, args.data.get(name))
        folder = ROOT / data_root_of(cfg)
        if run.experiment.scenes is not None:
            try:
                ensure_digit_scenes(folder, run.experiment.scenes)
            except (ImportError, ValueError) as error:
                raise UserError(str(error)) from error
        if not folder.is_dir():
            raise UserError(
                f'{run.experiment.name} needs data set {name}, and {folder} does not '
                f'exist; docs/data.md says what belongs there, --data {name}=FOLDER '
                'names another folder'
            )
        hashes[name] = data_hash(folder)
    return hashes


def shown_scores(job: Job) -> str:
    """The scores of a run that is done, in words."""
    return ', '.join(
        f'{score.label} {score.of(job.result):.{score.decimals}f}'
        for score in job.run.experiment.scores
        if score.key in job.result
    )


def run_all(runs: List[Run], args: argparse.Namespace) -> List[str]:
    """Run what is planned; what has failed."""
    hashes = prepare_data(runs, args)
    machine = dict(
        device=device_name(), threads=args.threads, torch=str(torch.__version__)
    )
    waiting, failed = list(runs), []
    running: List[Job] = []
    start, done = time.monotonic(), 0
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                run = waiting.pop(0)
                code = dict(commit=commit(), data=hashes[run.experiment.data])
                job = Job(run, args, {**code, **machine})
                job.start()
                running.append(job)
            time.sleep(0.2)
            for job in [job for job in running if job.poll()]:
                running.remove(job)
                job.lock.close()
                done += 1
                if job.error:
                    failed.append(str(job.run))
                what = f'FAILED: {job.error}' if job.error else shown_scores(job)
                left = (time.monotonic() - start) / done * (len(runs) - done)
                say(f'{done}/{len(runs)} {job.run}: {what}; {clock(left)} h left')
    finally:
        for job in running:
            job.stop()
    return failed


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Run what has no line yet."""
    args = parse_args(argv)
    args.out, args.work_dir = args.out.resolve(), args.work_dir.resolve()
    known = {
        (line['experiment'], line['network'], line['seed'])
        for line in read_lines(args.out)
    }
    runs = plan(args)
    missing = [run for run in runs if run.key not in known]
    say(f'{len(missing)} of {len(runs)} runs have no line in {args.out}')
    # So that `kill` ends the tools as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = run_all(missing, args)
    if failed:
        raise UserError(
            f'{len(failed)} of {len(missing)} runs failed: {"; ".join(failed)}; the '
            'same command tries them again',
            status=1,
        )


if __name__ == '__main__':
    main()
