# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Time networks against each other: speed, memory and operators.

Examples:
    python tools/analysis_tools/benchmark.py --set table14 --mode train
    python tools/analysis_tools/benchmark.py --set resnet50 --runtime onnxruntime
    python tools/analysis_tools/benchmark.py CONFIG_A CONFIG_B --shape 800 1333
"""

import argparse
import json
import os.path as osp
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.config import Config

from mmrla.analysis import plots
from mmrla.analysis.benchmark import FORMS, MODES, PRECISIONS, Form, Timing, compare
from mmrla.analysis.networks import is_detector, network_class
from mmrla.analysis.runtimes import RUNTIMES
from mmrla.engine.config import load_config
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError

_CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '../../configs')

#: Sets of networks; the first of each is the reference.
SETS: Dict[str, Dict[str, str]] = {
    'resnet50': {
        'ResNet-50': 'baselines/resnet50_4xb64_in1k.py',
        '+RLA': 'rla_resnet/rla-resnet50_4xb64_in1k.py',
        '+RLA, released': 'rla_resnet/rla-resnet50-released_4xb64_in1k.py',
    },
    'table14': {
        'ResNet-50': 'baselines/resnet50_4xb64_in1k.py',
        '+SE': 'baselines/se-resnet50_4xb64_in1k.py',
        '+ECA': 'baselines/eca-resnet50_4xb64_in1k.py',
        '+RLA': 'rla_resnet/rla-resnet50_4xb64_in1k.py',
        '+RLA, released': 'rla_resnet/rla-resnet50-released_4xb64_in1k.py',
        '+ECA+RLA': 'rla_resnet/rla-ecanet50_4xb64_in1k.py',
    },
    'eca': {
        'ECA-ResNet-50': 'baselines/eca-resnet50_4xb64_in1k.py',
        '+RLA': 'rla_resnet/rla-ecanet50_4xb64_in1k.py',
        '+RLA, released': 'rla_resnet/rla-ecanet50-released_4xb64_in1k.py',
    },
    'mobilenet': {
        'MobileNetV2': 'baselines/mobilenet-v2_2xb48_in1k.py',
        '+ECA': 'baselines/eca-mobilenet-v2_2xb48_in1k.py',
        '+RLA': 'rla_mobilenet_v2/rla-mobilenet-v2_2xb48_in1k.py',
        '+RLA, released': 'rla_mobilenet_v2/rla-mobilenet-v2-released_2xb48_in1k.py',
    },
    'faster-rcnn': {
        'Faster R-CNN R50': 'faster_rcnn/faster-rcnn_r50_fpn_4xb2-1x_coco.py',
        '+RLA': 'faster_rcnn/faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py',
    },
    'mask-rcnn': {
        'Mask R-CNN R50': 'mask_rcnn/mask-rcnn_r50_fpn_4xb2-1x_coco.py',
        '+RLA': 'mask_rcnn/mask-rcnn_rla-r50_fpn_4xb2-1x_coco.py',
    },
    'retinanet': {
        'RetinaNet R50': 'retinanet/retinanet_r50_fpn_4xb2-1x_coco.py',
        '+RLA': 'retinanet/retinanet_rla-r50_fpn_4xb2-1x_coco.py',
        '+RLA, released': 'retinanet/retinanet_rla-r50-released_fpn_4xb2-1x_coco.py',
    },
}


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', help='configs; the first is the base')
    parser.add_argument('--set', choices=SETS, help='networks of a named set')
    parser.add_argument('--mode', choices=MODES, default='inference')
    parser.add_argument(
        '--device', choices=('cpu', 'cuda'), help='default: cuda where there is a GPU'
    )
    parser.add_argument('--precision', choices=PRECISIONS, default='fp32')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument(
        '--cuda-graph',
        action='store_true',
        help='replay each step as a CUDA graph; inference of classifiers',
    )
    parser.add_argument(
        '--form',
        choices=FORMS,
        default='default',
        help='form of all networks: deployed for inference, fused for training',
    )
    parser.add_argument(
        '--runtime',
        choices=('torch', *RUNTIMES),
        default='torch',
        help='what runs the networks; all but torch after an export to ONNX, of a '
        'detector its backbone and neck',
    )
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'))
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--warmup', type=int, default=3)
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument(
        '--cpu-time',
        action='store_true',
        help='time that the CPU works; with --threads 1 for a machine that is not idle',
    )
    parser.add_argument(
        '--profile', action='store_true', help='print the time by operator too'
    )
    parser.add_argument('--out', help='folder for benchmark.json and a figure')
    args = parser.parse_args(argv)
    if args.device is None:
        on_gpu = args.runtime == 'torch' and torch.cuda.is_available()
        args.device = 'cuda' if on_gpu else 'cpu'
    if bool(args.configs) == bool(args.set):
        parser.error('give configs or --set, one of the two')
    modes = dict(deployed='inference', fused='train')
    if modes.get(args.form, args.mode) != args.mode:
        parser.error(f'--form {args.form} is for --mode {modes[args.form]}')
    if args.form == 'fused' and (
        args.compile or args.precision not in ('fp32', 'tf32')
    ):
        parser.error('--form fused is for eager float32')
    given = dict(
        mode=args.mode != 'inference',
        device=args.device != 'cpu',
        precision=args.precision not in ('fp32', 'int8'),
        channels_last=args.channels_last,
        compile=args.compile,
        cuda_graph=args.cuda_graph,
    )
    if args.runtime != 'torch' and any(given.values()):
        name = next(name for name in given if given[name]).replace('_', '-')
        parser.error(
            f'--runtime {args.runtime} takes no --{name}: it runs float32 or int8 '
            'inference on the CPU'
        )
    if args.precision == 'int8' and args.runtime == 'torch':
        parser.error(f'--precision int8 needs --runtime {" or ".join(RUNTIMES)}')
    for name in ('batch_size', 'rounds', 'threads'):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f'--{name.replace("_", "-")} {value} is not positive')
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: this machine has no GPU that torch can use')
    if args.device == 'cuda' and args.cpu_time:
        parser.error('--cpu-time is for --device cpu')
    if args.device == 'cpu' and args.precision in ('fp16', 'tf32'):
        parser.error(
            f'--precision {args.precision} needs --device cuda; '
            'on the CPU: fp32 or bf16'
        )
    if args.cuda_graph and (args.device == 'cpu' or args.mode != 'inference'):
        parser.error('--cuda-graph is for --device cuda and --mode inference')
    return args


def table(results: List[Timing]) -> str:
    """The results as text."""
    lines = [
        f'{"network":24} {"ratio":>6} {"10-90%":>13} {"ms":>8} {"img/s":>8} '
        f'{"memory":>9} {"ratio":>6} {"kernels":>8}'
    ]
    for r in results:
        memory = '-' if r.memory is None else f'{r.memory / 2**20:.0f} MiB'
        memory_ratio = '-' if r.memory_ratio is None else f'{r.memory_ratio:.3f}'
        spread = f'{r.spread[0]:.3f}-{r.spread[1]:.3f}'
        lines.append(
            f'{r.name:24} {r.ratio:6.3f} {spread:>13} {r.seconds * 1e3:8.1f} '
            f'{r.images_per_second:8.1f} {memory:>9} {memory_ratio:>6} '
            f'{r.kernels:8}'
        )
    return '\n'.join(lines)


def operator_table(results: List[Timing], rows: int = 12) -> str:
    """Milliseconds by operator, those first whose time differs most."""
    first = results[0].profile

    def largest_difference(name: str) -> float:
        return max(abs(r.profile.get(name, 0) - first.get(name, 0)) for r in results)

    names = sorted({name for r in results for name in r.profile})
    names.sort(key=largest_difference, reverse=True)
    lines = ['ms by operator ' + ''.join(f' {r.name:>16}' for r in results)]
    for name in names[:rows]:
        times = (r.profile.get(name, 0) * 1e3 for r in results)
        lines.append(f'{name}\n' + ' ' * 15 + ''.join(f' {t:16.1f}' for t in times))
    totals = (sum(r.profile.values()) * 1e3 for r in results)
    lines.append('all' + ' ' * 12 + ''.join(f' {t:16.1f}' for t in totals))
    return '\n'.join(lines)


def draw(results: List[Timing], form: Form) -> Any:
    """Bars of the ratios with their spread."""
    figure, grid = plots.add_figure(1, 1, (7, 0.5 * len(results) + 1.6))
    axes = grid[0, 0]
    rows = range(len(results))[::-1]
    ratios = [r.ratio for r in results]
    errors = [
        [max(r.ratio - r.spread[0], 0) for r in results],
        [max(r.spread[1] - r.ratio, 0) for r in results],
    ]
    axes.barh(rows, ratios, xerr=errors, color='0.75', edgecolor='0.2', capsize=3)
    axes.set_yticks(list(rows), [r.name for r in results])
    axes.axvline(1, color='0.2', linewidth=1)
    low = min(0.9, min(r.spread[0] for r in results) - 0.02)
    axes.set_xlim(low, max(r.spread[1] for r in results) + 0.06)
    for row, r in zip(rows, results):
        axes.text(r.spread[1] + 0.008, row, f'{r.ratio:.3f}', va='center')
    axes.set_xlabel(f'time of a step, relative to {results[0].name}')
    options = [form.form, form.mode, form.runtime, form.device, form.precision]
    options.append(f'batch {form.batch_size}')
    flags = 'channels_last', 'compile', 'cuda_graph'
    options += [name for name in flags if getattr(form, name)]
    options += ['CPU time'] if form.cpu_time else []
    axes.set_title(', '.join(options), fontsize=10, loc='right')
    return figure


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Run the comparison that the command line describes."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    stems = [osp.splitext(osp.basename(file))[0] for file in args.configs]
    files = (
        {name: osp.join(_CONFIGS, file) for name, file in SETS[args.set].items()}
        if args.set
        # Files of one name are told apart by their folders.
        else {
            file if stems.count(stem) > 1 else stem: file
            for stem, file in zip(stems, args.configs)
        }
    )
    cfgs: Dict[str, Config] = {name: load_config(f) for name, f in files.items()}
    kinds = {is_detector(network_class(cfg)) for cfg in cfgs.values()}
    if len(kinds) > 1:
        raise UserError('classifiers and detectors cannot be compared in one run')
    shape = args.shape or ((800, 1333) if kinds == {True} else (224, 224))
    form = Form(
        mode=args.mode,
        device=args.device,
        precision=args.precision,
        channels_last=args.channels_last,
        compile=args.compile,
        form=args.form,
        batch_size=args.batch_size,
        shape=tuple(shape),
        cpu_time=args.cpu_time,
        runtime=args.runtime,
        cuda_graph=args.cuda_graph,
    )
    if form.cuda_graph and kinds == {True}:
        raise UserError('--cuda-graph is for classifiers: a detector asks for values')
    results = compare(cfgs, form, args.rounds, args.warmup)
    print(table(results))
    if args.profile:
        print(operator_table(results))
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        record = dict(
            form=asdict(form),
            rounds=args.rounds,
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            machine=torch.cuda.get_device_name()
            if form.device == 'cuda'
            else platform.machine(),
            results=[asdict(r) for r in results],
        )
        (folder / 'benchmark.json').write_text(json.dumps(record, indent=2) + '\n')
        rows = [(r.name, r.ratio, *r.spread) for r in results]
        head = ('network', 'ratio', 'p10', 'p90')
        figure = plots.save(draw(results, form), folder / 'benchmark', head, rows)
        print('written:', folder / 'benchmark.json', *figure)


if __name__ == '__main__':
    main()
