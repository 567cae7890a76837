#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What trained networks do with the hidden state: a line of JSON each, and a figure.

By block, how large the read of h is against what the block's mixing conv makes of x
(root mean squares, the mean over the test images); the test scores as trained, with
all reads set to zero, and with a state that is zero at the start of each stage.

    python projects/evidence/reads.py work_dirs/evidence/retinanet_rla-*/seed*

Folders are those of run.py. What has its line is not computed again.
"""

import argparse
import copy
import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor, nn

from mmrla.analysis import plots
from mmrla.analysis.hidden_state import record
from mmrla.analysis.runs import read_run
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError
from projects.evidence.run import Line, read_lines

HERE = Path(__file__).resolve().parent


def as_trained(backbone: nn.Module) -> None:
    """Nothing."""


def without_reads(backbone: nn.Module) -> None:
    """Set what blocks read of h to zero: the plain network with the trained weights."""
    for unit in backbone.rla:
        unit.start_from_plain()


def reset_state(backbone: nn.Module) -> None:
    """Let the state be zero before each stage's first block."""

    def zero_read(read: nn.Module, args: Tuple[Tensor]) -> Tuple[Tensor]:
        return (torch.zeros_like(args[0]),)

    def zero_state(unit: nn.Module, args: Tuple[int, Tensor, Tensor]) -> Any:
        t, source, state = args
        return args if t else (t, source, torch.zeros_like(state))

    for unit in backbone.rla:
        unit.read[0].register_forward_pre_hook(zero_read)
        unit.register_forward_pre_hook(zero_state)


#: What is done to a trained network before it is tested.
VARIANTS: Dict[str, Callable[[nn.Module], None]] = dict(
    trained=as_trained, no_reads=without_reads, reset=reset_state
)


def build(cfg: Config, checkpoint: Path) -> Runner:
    """A runner to test with, and the trained weights in it.

    Args:
        cfg: The run's config, as it was dumped.
        checkpoint: Its last checkpoint.
    """
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    load_checkpoint(runner.model, str(checkpoint), map_location='cpu', strict=True)
    return runner


def ratios(runner: Runner) -> List[Tuple[str, int, float]]:
    """How large reads are: layer, block in its stage (from 1), rms(read) / rms(conv).

    The mean over the test images, in the order of the network.
    """
    model = runner.model.eval()
    sums: Dict[Tuple[str, int], List[float]] = {}
    for batch in runner.build_dataloader(runner.cfg.test_dataloader):
        inputs = model.data_preprocessor(batch, False)['inputs']
        for image in inputs:
            for stage in record(model, image[None]):
                for reading in stage.readings:
                    share = reading.output
                    ratio = math.sqrt(share / (1 - share))
                    sums.setdefault((stage.name, reading.block + 1), []).append(ratio)
    return [(*where, round(float(np.mean(v)), 4)) for where, v in sums.items()]


def key_of(work_dir: Path) -> Line:
    """Config, recipe and seed of a folder of run.py.

    Raises:
        UserError: If it is none.
    """
    name = re.fullmatch(
        r'(.+)-([0-9a-f]{8})/seed([0-9]+)', '/'.join(work_dir.parts[-2:])
    )
    if name is None:
        raise UserError(f'{work_dir} is no folder CONFIG-RECIPE/seedN of run.py')
    return dict(config=name[1], recipe=name[2], seed=int(name[3]))


def analyse(work_dir: Path) -> Line:
    """What a run's line has besides :func:`key_of`.

    Raises:
        UserError: If it has no checkpoint, or no hidden state.
    """
    run = read_run(work_dir)
    checkpoint, configs = run.checkpoint(), sorted(work_dir.glob('*.py'))
    if checkpoint is None or not configs:
        raise UserError(f'{work_dir} has no checkpoint with its config')
    cfg = Config.fromfile(configs[-1])
    if not cfg.model.backbone.get('rla_channels'):
        raise UserError(f'{configs[-1]} has no hidden state')
    line: Line = {}
    with tempfile.TemporaryDirectory() as folder:
        # A named visualizer would be shared by all runners, with the first folder.
        cfg.update(load_from=None, resume=False, work_dir=folder, visualizer=None)
        cfg.model.backbone.init_cfg = None
        for name, change in VARIANTS.items():
            runner = build(cfg, checkpoint)
            change(runner.model.backbone)
            scores = runner.test()
            line[name] = {k: round(float(v), 4) for k, v in scores.items()}
        line['ratios'] = ratios(build(cfg, checkpoint))
    return line


def draw(lines: Sequence[Line]) -> Any:
    """The ratios by block, a panel for each network: seeds pale, their mean strong."""
    names = sorted({line['config'] for line in lines})
    size = (4.6 * len(names), 3.4)
    figure, axes = plots.add_figure(1, len(names), size, sharey=True)
    for i, (ax, name) in enumerate(zip(axes.flat, names)):
        own = [[r for *_, r in x['ratios']] for x in lines if x['config'] == name]
        blocks = range(1, len(own[0]) + 1)
        for heights in own:
            ax.plot(blocks, heights, color='0.7', linewidth=0.8)
        ax.plot(blocks, np.mean(own, axis=0), **plots.line_style(i))
        ax.set_title(f'{name} (seeds: {len(own)})', fontsize=10)
        ax.set_xlabel('block')
        plots.whole_numbers(ax.xaxis)
    axes[0, 0].set_ylabel('rms of read / rms of conv(x)')
    return figure


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Analyse what has no line, draw all lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='*', type=Path)
    parser.add_argument('--out', type=Path, default=HERE / 'reads.jsonl')
    parser.add_argument('--figure', type=Path, default=HERE / 'figures/reads')
    args = parser.parse_args(argv)
    for work_dir in args.work_dirs:
        key = key_of(work_dir.resolve())
        if any(key.items() <= line.items() for line in read_lines(args.out)):
            continue
        line = {**key, **analyse(work_dir)}
        with args.out.open('a', encoding='utf-8') as file:
            file.write(json.dumps(line) + '\n')
    lines = read_lines(args.out)
    head = ('config', 'seed', 'layer', 'block', 'ratio')
    rows = [(x['config'], x['seed'], *r) for x in lines for r in x['ratios']]
    plots.save(draw(lines), args.figure, head, rows)


if __name__ == '__main__':
    main()
