#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Train and test networks with several seeds; each run adds a line of JSON.

All networks of a seed come before the next seed. What has its line is not run again,
and a run that was killed goes on from its last checkpoint: start it with the same
command until nothing is left to do.

    python projects/evidence/run.py retinanet --seeds 0 1 2 3 4
    python projects/evidence/run.py resnet20_plain resnet20_rla --seeds 0
"""

import argparse
import fcntl
import functools
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.config import Config

from mmrla.analysis.runs import read_run
from mmrla.engine.data import leaf_datasets
from mmrla.engine.errors import one_line_errors
from mmrla.engine.launch import environment_of
from mmrla.errors import UserError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# What a run depends on, in git.
_CODE = ('mmrla', 'configs', 'tools', 'projects/evidence/configs')

#: A line of the results.
Line = Dict[str, Any]


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'names',
        nargs='+',
        help='names of config files, or how several begin: retinanet is retinanet_*; '
        'a path of another config',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument('--out', type=Path, default=HERE / 'results.jsonl')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/evidence')
    return parser.parse_args(argv)


def find_configs(names: List[str]) -> List[Path]:
    """Configs by name, in the order of the names.

    Raises:
        UserError: If there is none of a name.
    """
    found: Dict[Path, None] = {}
    for name in names:
        folder = HERE / 'configs'
        one = Path(name) if name.endswith('.py') else folder / f'{name}.py'
        paths = [one] if one.is_file() else sorted(folder.glob(f'{name}_*.py'))
        if not paths:
            known = ', '.join(sorted(p.stem for p in folder.glob('*_*.py')))
            raise UserError(f'{name} is no config; there are {known}')
        found.update(dict.fromkeys(path.resolve() for path in paths))
    return [*found]


def read_lines(path: Path) -> List[Line]:
    """The results in a file; none if it does not exist.

    Raises:
        UserError: If a line is no JSON.
    """
    lines = []
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f'{path}, line {number} is no JSON ({error}): remove it, and its run '
                'is done again'
            ) from error
    return lines


def recipe_of(config: Path) -> str:
    """8 hex digits that change with whatever a config says."""
    text = Config.fromfile(config).pretty_text
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def commit() -> str:
    """The commit of this clone, with a plus sign if files were changed since."""

    def git(*arguments: str) -> str:
        command = ['git', '-C', str(ROOT), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return ''
        return done.stdout.strip()

    head = git('rev-parse', '--short=12', 'HEAD') or 'unknown'
    return head + ('+' if git('status', '--porcelain', '--', *_CODE) else '')


def data_hash(config: Path) -> str:
    """16 hex digits that change with any file of a config's training data.

    Raises:
        UserError: If there is none.
    """
    dataset = Config.fromfile(config).train_dataloader.dataset
    _, leaf = next(leaf_datasets(dataset, ''))
    return _hash_of(ROOT / leaf.data_root)


@functools.lru_cache(None)
def _hash_of(folder: Path) -> str:
    files = sorted(p for p in folder.rglob('*') if p.is_file())
    if not files:
        raise UserError(f'no data in {folder}: projects/evidence/README.md says what')
    total = hashlib.sha256()
    for path in files:
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


def call(tool: str, work_dir: Path, lock: int, *arguments: str) -> List[float]:
    """Run a tool of the clone; wall and CPU seconds that it took.

    Args:
        tool: 'train' or 'test'.
        work_dir: The run's folder.
        lock: A file that the tool keeps locked, even if this process is killed.
        *arguments: Of the tool.

    Raises:
        UserError: If it fails, with the last line of its output.
    """
    command = [sys.executable, str(ROOT / f'tools/{tool}.py'), *arguments]
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    log = work_dir / f'{tool}.log'
    with log.open('w') as out:
        done = subprocess.run(
            [*command, '--work-dir', str(work_dir)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment_of(ROOT),
            pass_fds=[lock],
        )
    if done.returncode:
        last = log.read_text(errors='replace').strip().splitlines()[-1:]
        raise UserError(f'tools/{tool}.py: {"".join(last)} (all of it: {log})')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [round(time.monotonic() - start, 1), round(cpu, 1)]


def run(config: Path, seed: int, work_dir: Path, lock: int) -> Line:
    """Train, or go on with a training, and test; what the run's line says of it."""
    work_dir.mkdir(parents=True, exist_ok=True)
    goes_on = (work_dir / 'last_checkpoint').is_file()
    option = f'randomness.seed={seed}'
    trained = call(
        *('train', work_dir, lock, str(config)),
        *('--resume', 'auto', '--cfg-options', option),
    )
    checkpoint = read_run(work_dir).checkpoint()
    tested = call('test', work_dir, lock, str(config), str(checkpoint))
    scores = read_run(work_dir).tests
    line: Line = dict(
        scores={name: round(value, 4) for name, value in scores.items()},
        test_seconds=tested[0],
        test_cpu_seconds=tested[1],
    )
    if not goes_on:  # else what came before is not known
        line.update(train_seconds=trained[0], train_cpu_seconds=trained[1])
    return line


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Run what has no line yet."""
    args = parse_args(argv)
    out, folder = args.out.resolve(), args.work_dir.resolve()
    configs = find_configs(args.names)
    recipes = {config: recipe_of(config) for config in configs}
    hashes = {config: data_hash(config) for config in configs}
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with (folder / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f'another process is at work in {folder}') from None
        for seed in args.seeds:
            for config in configs:
                key = dict(config=config.stem, recipe=recipes[config], seed=seed)
                if any(key.items() <= line.items() for line in read_lines(out)):
                    continue
                facts = dict(
                    commit=commit(),
                    data=hashes[config],
                    device=device_name(),
                    threads=int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1)),
                    torch=str(torch.__version__),
                )
                work_dir = folder / f'{config.stem}-{recipes[config]}' / f'seed{seed}'
                try:
                    found = run(config, seed, work_dir, lock.fileno())
                except UserError as error:
                    failed.append(f'{config.stem}, seed {seed}')
                    print(f'{failed[-1]}: {error}', flush=True)
                    continue
                line = {**key, **found, **facts, 'date': time.strftime('%Y-%m-%d')}
                with out.open('a', encoding='utf-8') as file:
                    file.write(json.dumps(line) + '\n')
                print(json.dumps(line), flush=True)
    if failed:
        raise UserError(
            f'{len(failed)} runs failed: {"; ".join(failed)}; the same command tries '
            'them again',
            status=1,
        )


if __name__ == '__main__':
    main()
