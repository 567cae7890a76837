#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Compare runs on one HTML page: scores, curves, cost, example predictions.

    compare.py WORK_DIR [WORK_DIR ...] --out comparison.html

The page is one self-contained file. Throughput is measured on this machine, with the
networks in turn; --rounds 0 skips it.
"""

import argparse
import base64
import io
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config

from mmrla.analysis.benchmark import Form, Timing, compare
from mmrla.analysis.examples import Example, examples_of, predict
from mmrla.analysis.networks import (
    Analysis,
    analyse,
    is_detector,
    load_network,
    network_class,
)
from mmrla.analysis.runs import Run, curve_keys, draw_curves, read_runs
from mmrla.engine.config import load_config
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError

TEMPLATE = Path(__file__).with_suffix('.html')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR')
    parser.add_argument('--out', type=Path, default=Path('comparison.html'))
    parser.add_argument('--title', help='heading of the page')
    parser.add_argument(
        '--examples', type=int, default=4, help='number of example images (4)'
    )
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='of objects that are drawn (0.3)'
    )
    parser.add_argument(
        '--rounds', type=int, default=10, help='batches timed of each network (10)'
    )
    parser.add_argument('--batch-size', type=int, default=4, help='of those (4)')
    parser.add_argument(
        '--device', default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    args = parser.parse_args(argv)
    for name, least in (('examples', 0), ('rounds', 0), ('batch_size', 1)):
        if getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")}: at least {least} is needed')
    if args.out.suffix not in ('.html', '.htm'):
        parser.error(f'--out {args.out} does not end with .html')
    return args


def _uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


def _number(value: float) -> str:
    return f'{value:.4g}' if abs(value) < 1000 else f'{value:.0f}'


def score_rows(runs: Sequence[Run]) -> Tuple[List[Dict[str, Any]], bool]:
    """Rows of the scores, and whether one is from a test."""
    values: List[Dict[str, Tuple[float, str]]] = []
    for run in runs:
        found = {
            key: (list(series.values())[-1], '')
            for key, series in run.validations.items()
        }
        found.update({key: (value, '*') for key, value in run.tests.items()})
        # pycocotools says -1 if there are no objects of a size.
        values.append({k: v for k, v in found.items() if v[0] != -1})
    rows = []
    for key in dict.fromkeys(key for found in values for key in found):
        cells = [
            _number(found[key][0]) + found[key][1] if key in found else '-'
            for found in values
        ]
        rows.append(dict(name=key, cells=cells))
    return rows, any(run.tests for run in runs)


def curve_images(runs: Sequence[Run]) -> List[Dict[str, str]]:
    """A picture of each curve."""
    import matplotlib

    images = []
    for key in curve_keys(runs):
        with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'mmrla'}):
            file = io.BytesIO()
            draw_curves(runs, [key]).savefig(
                file, format='svg', metadata={'Date': None}
            )
        images.append(dict(name=key, source=_uri(file.getvalue(), 'svg+xml')))
    return images


def configs_of(runs: Sequence[Run]) -> Tuple[Dict[str, Config], List[str]]:
    """The configs by run, and what is wrong with unusable ones."""
    cfgs, notes = {}, []
    for run in runs:
        try:
            if run.config is None:
                raise UserError(f'{run.work_dir} holds no config')
            cfgs[run.name] = load_config(str(run.config))
        except UserError as error:
            notes.append(f'{run.name}: {error}')
    return cfgs, notes


def measure(
    cfgs: Dict[str, Config], analyses: Dict[str, Analysis], args: argparse.Namespace
) -> Dict[str, Timing]:
    """Time networks with the same input size against each other."""
    timings: Dict[str, Timing] = {}
    groups: Dict[Any, List[str]] = {}
    for name, analysis in analyses.items():
        key = (is_detector(network_class(cfgs[name])), analysis.shape)
        groups.setdefault(key, []).append(name)
    for (_, shape), names in groups.items():
        form = Form(device=args.device, batch_size=args.batch_size, shape=shape)
        found = compare({n: cfgs[n] for n in names}, form, rounds=args.rounds)
        timings.update({timing.name: timing for timing in found})
    return timings


def cost_rows(
    runs: Sequence[Run], cfgs: Dict[str, Config], args: argparse.Namespace
) -> Tuple[List[Dict[str, str]], List[str]]:
    """Rows of the cost, and notes."""
    analyses: Dict[str, Analysis] = {}
    notes: List[str] = []
    for name, cfg in cfgs.items():
        try:
            analyses[name] = analyse(cfg)
        except UserError as error:
            notes.append(f'{name}: {error}')
    timings = measure(cfgs, analyses, args) if args.rounds else {}
    rows = []
    for run in runs:
        row = dict(
            name=run.name, params='-', flops='-', shape='-', speed='-', ratio='-'
        )
        if run.name in analyses:
            analysis = analyses[run.name]
            params, cost = analysis.complexity.of()
            row.update(
                params=f'{params:,}',
                flops=f'{cost.macs / 1e9:.3f}',
                shape='{} x {}'.format(*analysis.shape),
            )
        if run.name in timings:
            timing = timings[run.name]
            row.update(
                speed=f'{timing.images_per_second:.1f}',
                ratio='1'
                if timing.spread == (1, 1)
                else f'{timing.ratio:.3f} ({timing.spread[0]:.3f} to '
                f'{timing.spread[1]:.3f})',
            )
        rows.append(row)
    if timings:
        device = torch.cuda.get_device_name() if args.device == 'cuda' else 'the CPU'
        notes.append(
            f'Inference with random weights in batches of {args.batch_size}, float32, '
            f'on {device}, threads: {torch.get_num_threads()}, rounds: {args.rounds}; '
            'median, and the ratio to the first network of the same kind and image '
            'size, with its 10th and 90th percentile.'
        )
    return rows, notes


def _picture(title: str, text: str, image: np.ndarray) -> Dict[str, Any]:
    import cv2

    small = max(image.shape[:2]) <= 96
    # Small pictures lossless, large ones compressed.
    kind, options = ('png', []) if small else ('jpg', [cv2.IMWRITE_JPEG_QUALITY, 88])
    _, data = cv2.imencode(f'.{kind}', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    source = _uri(data.tobytes(), 'png' if small else 'jpeg')
    return dict(title=title, text=text, source=source, small=small)


def example_rows(
    runs: Sequence[Run], cfgs: Dict[str, Config], args: argparse.Namespace
) -> Tuple[List[List[Dict[str, Any]]], List[str]]:
    """Pictures (ground truth first, then each run's predictions) and notes."""
    notes: List[str] = []
    examples: List[Example] = []
    source = ''
    for run in runs if args.examples else ():
        if run.name in cfgs and not examples:
            try:
                examples = examples_of(cfgs[run.name], args.examples)
                source = run.name
            except UserError as error:
                notes.append(f'{run.name}: {error}')
    if not examples:
        return [], [*notes, 'There are no examples.']
    notes.append(f'Images of the validation set of {source}.')
    rows = [[_picture('ground truth', e.truth, e.drawn)] for e in examples]
    for run in runs:
        checkpoint = run.checkpoint()
        if run.name not in cfgs or checkpoint is None:
            notes.append(f'{run.name}: no checkpoint in {run.work_dir}.')
            continue
        try:
            cfg, model = load_network(str(run.config), str(checkpoint))
        except UserError as error:
            notes.append(f'{run.name}: {error}')
            continue
        for row, example in zip(rows, examples):
            image, text = predict(cfg, model, example.image, args.score_thr)
            row.append(_picture(run.name, text, image))
    return rows, notes


def page(runs: Sequence[Run], args: argparse.Namespace) -> str:
    """The page's text."""
    try:
        from jinja2 import Environment
    except ImportError:
        raise UserError("pages need Jinja2: pip install 'mmrla[look]'") from None
    cfgs, config_notes = configs_of(runs)
    scores, tested = score_rows(runs)
    costs, cost_notes = cost_rows(runs, cfgs, args)
    examples, example_notes = example_rows(runs, cfgs, args)
    described = []
    for run in runs:
        checkpoint = run.checkpoint()
        epochs = [r['epoch'] for r in run.scalars if 'epoch' in r]
        described.append(
            dict(
                name=run.name,
                work_dir=run.work_dir,
                config=run.config_name,
                epochs=max(epochs) if epochs else '-',
                checkpoint=checkpoint.name if checkpoint else '-',
            )
        )
    # Names of runs and texts of configs are untrusted.
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    return template.render(
        title=args.title or ' / '.join(run.name for run in runs),
        date=time.strftime('%Y-%m-%d %H:%M'),
        runs=described,
        scores=scores,
        tested=tested,
        curves=curve_images(runs),
        costs=costs,
        measured=bool(args.rounds),
        cost_notes=config_notes + cost_notes,
        examples=examples,
        example_notes=example_notes,
    )


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Write the page."""
    args = parse_args(argv)
    text = page(read_runs(args.work_dirs), args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding='utf-8')
    print(f'written: {args.out} ({len(text.encode()) / 2**20:.1f} MiB)')


if __name__ == '__main__':
    main()
