#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Count parameters and FLOPs of a config's network, and RLA's part by stage.

FLOPs are the multiply-adds of convolutions, linear layers and matrix products, in
decimal units. In the paper's units M is 2^20 and G is 2^30, and FLOPs also count 2 for
each element written by a batch norm, 1 by an average pooling and kernel area + 1 by a
global average pooling.
"""

import argparse
import json
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmrla.analysis.complexity import DECIMAL_UNITS, PAPER_UNITS, Cost
from mmrla.analysis.networks import Analysis, analyse
from mmrla.engine.config import add_cfg_options, load_config
from mmrla.engine.errors import one_line_errors


def _side(text: str) -> int:
    try:
        side = int(text)
    except ValueError:
        side = 0
    if side < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of pixels')
    return side


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=_side,
        nargs='+',
        metavar='PIXELS',
        help='height and width of the image, or one side of a square (default: the '
        "config's test pipeline); padded as the config does",
    )
    parser.add_argument(
        '--format', choices=('text', 'json'), default='text', help='(default: text)'
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.shape and len(args.shape) > 2:
        parser.error('--shape takes one or two numbers: HEIGHT WIDTH')
    return args


def _counts(params: int, cost: Cost) -> Dict[str, int]:
    return dict(params=params, macs=cost.macs, paper_flops=cost.paper_flops)


def to_dict(config: str, analysis: Analysis) -> Dict[str, Any]:
    """The counts as plain numbers, for JSON."""
    complexity = analysis.complexity
    return dict(
        config=config,
        shape=list(analysis.shape),
        proposals=analysis.proposals,
        total=_counts(*complexity.of()),
        parts={name: _counts(*complexity.of(name)) for name in analysis.parts},
        rla={
            share.where: dict(
                _counts(*share.total),
                unit=_counts(*share.unit),
                reading=_counts(*share.reading),
            )
            for share in analysis.shares
        },
        uncounted=complexity.uncounted,
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    """Columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in [head, *rows]
    ]


def _cells(params: int, cost: Cost, unit: str) -> Tuple[str, str, str, str]:
    return (
        f'{params:,}',
        f'{cost.macs / DECIMAL_UNITS[unit]:.3f}',
        f'{params / PAPER_UNITS["M"]:.3f}',
        f'{cost.paper_flops / PAPER_UNITS[unit]:.3f}',
    )


#: Columns, by the unit of FLOPs.
_HEADS = {
    'M': ('parameters', 'FLOPs (10^6)', 'params (2^20)', 'FLOPs (2^20)'),
    'G': ('parameters', 'FLOPs (10^9)', 'params (2^20)', 'FLOPs (2^30)'),
}


def to_text(config: str, analysis: Analysis) -> str:
    """The counts as tables."""
    complexity = analysis.complexity
    params, cost = complexity.of()
    height, width = analysis.shape
    # As the paper prints ResNets and MobileNetV2.
    unit = 'G' if cost.paper_flops >= PAPER_UNITS['G'] else 'M'
    flops = f'{cost.paper_flops / PAPER_UNITS[unit]:.{2 if unit == "G" else 1}f}{unit}'
    lines = [f'config:     {config}', f'image:      {height} x {width}']
    if analysis.proposals is not None:
        lines.append(f'proposals:  {analysis.proposals} from the RPN')
    lines += [
        f'parameters: {params:,}',
        f'FLOPs:      {cost.macs:,} (multiply-adds)',
        f'paper:      {params / PAPER_UNITS["M"]:.2f}M, {flops} '
        f'({cost.paper_flops:,} by the rule of its ImageNet tables)',
        '',
    ]
    parts = [(name, *complexity.of(name)) for name in analysis.parts]
    rows: List[Tuple[str, ...]] = [
        (name, *_cells(params, cost, unit))
        for name, params, cost in [*parts, ('total', params, cost)]
        if params or cost != Cost()
    ]
    lines += _table(('part', *_HEADS[unit]), rows)
    if analysis.shares:
        rows, sums = [], (0, Cost())
        for share in analysis.shares:
            rows.append((share.where, *_cells(*share.total, unit)))
            rows.append((f'  {share.unit_name}', *_cells(*share.unit, unit)))
            rows.append(('  reading of h', *_cells(*share.reading, unit)))
            sums = sums[0] + share.total[0], sums[1] + share.total[1]
        rows.append(('RLA in total', *_cells(*sums, unit)))
        shares = (
            sums[0] / params,
            sums[1].macs / cost.macs,
            sums[0] / params,
            sums[1].paper_flops / cost.paper_flops,
        )
        rows.append(('of the network', *(f'{part:.2%}' for part in shares)))
        lines += ['', *_table(('RLA part', *_HEADS[unit]), rows)]
    if complexity.uncounted:
        lines += [
            '',
            'no multiply-adds were seen for the weights of: '
            + ', '.join(complexity.uncounted),
        ]
    return '\n'.join(lines)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Print the counts."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    shape = (args.shape[0], args.shape[-1]) if args.shape else None
    analysis = analyse(cfg, shape)
    if args.format == 'json':
        print(json.dumps(to_dict(args.config, analysis), indent=2))
    else:
        print(to_text(args.config, analysis))


if __name__ == '__main__':
    main()
