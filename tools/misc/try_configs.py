#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Train configs briefly on a few real images and check that the loss falls.

Each config runs through tools/train.py in its own process, from scratch, on a few
small images, at a constant learning rate scaled to the batch. This shows that a config
runs and fits its data; it says nothing about scores.

Examples:
    python tools/misc/try_configs.py configs/faster_rcnn/*.py
    python tools/misc/try_configs.py configs/*/*.py --data coco=data/tiny \
        --out work_dirs/try_configs/results.jsonl
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from mmrla.analysis.runs import read_scalars
from mmrla.engine import checks, config, data
from mmrla.engine.errors import config_errors, one_line_errors
from mmrla.engine.layout import explained
from mmrla.errors import UserError
from mmrla.registry import default_scope

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'
# Arguments of transforms that are image sizes.
_SIZES = ('crop_size', 'img_scale', 'scale', 'scales', 'size')
# Smallest side: a stride of 32 leaves 2x2.
_SMALLEST = 64


class Result(NamedTuple):
    """Result of a config.

    Attributes:
        config: Its name.
        first: Mean loss of the first epoch.
        last: Mean loss of the last epoch; infinite if the run failed.
        iterations: Iterations trained.
        seconds: Duration, with the start of the process.
        error: Last line printed by a failed run.
    """

    config: str
    first: float
    last: float
    iterations: int
    seconds: float
    error: str = ''

    @property
    def falls(self) -> bool:
        """Whether the loss is lower in the last epoch than in the first."""
        return self.last < self.first

    def __str__(self) -> str:
        if self.error:
            return f'{self.config}: FAILED: {self.error}'
        verdict = '' if self.falls else '  NOT LOWER'
        return (
            f'{self.config}: {self.iterations} iterations, loss {self.first:.3f} -> '
            f'{self.last:.3f}{verdict} ({self.seconds:.0f} s)'
        )


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', help='config files')
    parser.add_argument(
        '--data',
        nargs='+',
        type=config.name_and_folder,
        default=[],
        metavar='NAME=FOLDER',
        help='data roots by the last part of the names of configs (coco, in1k, '
        'cifar10, ...); otherwise those of the configs',
    )
    parser.add_argument('--images', type=int, default=16, help='images to fit (16)')
    parser.add_argument('--batch-size', type=int, default=8, help='at most (8)')
    parser.add_argument('--epochs', type=int, default=8, help='(8)')
    parser.add_argument(
        '--scale', type=float, default=0.25, help='of sides over 64 pixels (0.25)'
    )
    parser.add_argument(
        '--lr',
        type=float,
        help="learning rate instead; Adam's needs no scaling",
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='file of results, a line of JSON each; those whose loss fell are skipped',
    )
    args = parser.parse_args(argv)
    args.data = dict(args.data)
    return args


def shrink(value: Any, scale: float) -> Any:
    """Make image sizes smaller, also in lists."""
    if isinstance(value, (list, tuple)):
        # Transforms distinguish a pair from a list of pairs.
        return type(value)(shrink(v, scale) for v in value)
    if isinstance(value, int):
        return min(value, max(_SMALLEST, round(value * scale / 32) * 32))
    return value


def shrink_sizes(cfg: Any, scale: float) -> None:
    """Make a pipeline's images smaller, in place."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            shrink_sizes(item, scale)
    elif isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in _SIZES:
                cfg[key] = shrink(value, scale)
            else:
                shrink_sizes(value, scale)


def lower(cfg: Config, args: argparse.Namespace) -> None:
    """Shorten a config's training, in place."""
    dataset = Path(cfg.filename).stem.rpartition('_')[2]
    loader = cfg.train_dataloader
    shrink_sizes(loader.dataset, args.scale)
    for _, leaf in data.leaf_datasets(loader.dataset, ''):
        leaf.data_root = args.data.get(dataset, leaf.get('data_root'))
        if leaf.type == 'ImageNet':
            # Any class folders do.
            folders = Path(leaf.data_root, leaf.split).glob('*/')
            leaf.metainfo = dict(classes=sorted(p.name for p in folders if p.is_dir()))
    with default_scope(cfg):
        with explained(cfg, ['train']), config_errors(cfg.filename):
            for _, leaf in data.leaf_datasets(loader.dataset, ''):
                total = len(DATASETS.build(leaf))
                spread = np.linspace(0, total - 1, min(args.images, total))
                leaf.indices = [int(i) for i in spread]
    loader.batch_size = min(loader.batch_size, args.batch_size)
    loader.num_workers = 0

    backbone = cfg.model.backbone
    backbone.init_cfg = None
    for key, value in dict(frozen_stages=-1, norm_eval=False).items():
        if key in backbone:
            backbone[key] = value
    cfg.param_scheduler = []
    if args.lr:
        cfg.optim_wrapper.optimizer.lr = args.lr
        cfg.auto_scale_lr = None
    cfg.train_cfg = ConfigDict(by_epoch=True, max_epochs=args.epochs)
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg[key] = None
    # Log every iteration, keep nothing else.
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.default_hooks.checkpoint = None
    cfg.log_processor = dict(by_epoch=True, window_size=1)
    cfg.randomness = dict(seed=0)


def losses(work_dir: Path) -> List[List[float]]:
    """Losses by epoch from a run's log."""
    epochs: Dict[int, List[float]] = {}
    for values in read_scalars(work_dir):
        if 'loss' in values:
            epochs.setdefault(values['epoch'], []).append(values['loss'])
    return [epochs[epoch] for epoch in sorted(epochs)]


def try_config(path: Path, args: argparse.Namespace) -> Result:
    """Train a config briefly."""
    start = time.time()
    cfg = config.load_config(str(path))
    checks.check_complete(cfg, ['model', 'train_dataloader', 'train_cfg'])
    lower(cfg, args)
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder, path.name)
        cfg.dump(short)
        command = [sys.executable, str(TRAIN), str(short), '--work-dir', folder]
        if 'base_batch_size' in (cfg.get('auto_scale_lr') or {}):
            command.append('--auto-scale-lr')
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
        )
        values = losses(Path(folder))
    seconds = time.time() - start
    if done.returncode or not values:
        lines = (done.stderr or done.stdout).strip().splitlines() or ['no output']
        return Result(path.stem, np.inf, np.inf, 0, seconds, lines[-1])
    first, last = float(np.mean(values[0])), float(np.mean(values[-1]))
    return Result(path.stem, first, last, sum(map(len, values)), seconds)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Try configs one after another."""
    args = parse_args(argv)
    known: Dict[str, Result] = {}
    if args.out and args.out.is_file():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
        results = [Result(**row) for row in rows]
        known = {result.config: result for result in results if result.falls}
    bad = []
    for number, name in enumerate(args.configs, start=1):
        path = Path(name)
        result = known.get(path.stem)
        if result is None:
            try:
                result = try_config(path, args)
            except UserError as error:
                result = Result(path.stem, np.inf, np.inf, 0, 0, str(error))
            if args.out:
                args.out.parent.mkdir(parents=True, exist_ok=True)
                with args.out.open('a') as file:
                    file.write(json.dumps(result._asdict()) + '\n')
        print(f'{number}/{len(args.configs)} {result}', flush=True)
        if not result.falls:
            bad.append(result.config)
    if bad:
        what = f'{len(bad)} of {len(args.configs)} configs failed or did not fit'
        raise UserError(f'{what}: {", ".join(bad)}', status=1)


if __name__ == '__main__':
    main()
