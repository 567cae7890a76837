#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Recount the params and FLOPs of the paper's Tables 2, 3, 6, 11, 13 and 15.

Prints each count beside the paper's figure, as Markdown or JSON. The exit status is 1
if a row measured by the authors is off.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from mmrla.analysis import markdown
from mmrla.analysis.paper import (
    OFF,
    UNKNOWN,
    VERDICTS,
    Figure,
    Result,
    Table,
    read_tables,
    rebuild,
)
from mmrla.engine.errors import one_line_errors

#: Beside the tools, in the repository as in the installed package.
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TABLES = Path(__file__).with_suffix('.yml')

UNITS = (
    'ImageNet: M is 2^20, G is 2^30; FLOPs are, for an image of 224x224, multiply-adds '
    'of convolutions and linear layers, 2 for each element that a batch norm writes, 1 '
    'for one of an average pooling, kernel area + 1 for one of an adaptive average '
    'pooling. CIFAR: M is 10^6.'
)
HEAD = (
    *('model', 'verdict', 'config'),
    *('params', 'here', 'diff.', 'FLOPs', 'here', 'diff.'),
)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--table',
        type=int,
        nargs='+',
        choices=[table.number for table in read_tables(TABLES)],
        help='tables to count (default: all)',
    )
    parser.add_argument('--format', choices=('markdown', 'json'), default='markdown')
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help='write to a file instead of printing'
    )
    return parser.parse_args(argv)


def _difference(figure: Figure, percent: bool) -> str:
    if figure.difference is None:
        return '-'
    digits = len(figure.paper[:-1].partition('.')[2])
    text = f'{figure.difference:+.{digits}f}' if figure.difference else '0'
    return f'{text} ({figure.relative:+.2%})' if percent else text


def _cells(result: Result) -> Tuple[str, ...]:
    row, params, flops = result.row, result.params, result.flops
    source = f'[{Path(row.config).stem}](../configs/{row.config})' if row.config else ''
    return (
        row.model,
        result.verdict,
        source or '-',
        params.paper,
        params.ours or '-',
        _difference(params, row.data != 'ImageNet'),
        flops.paper or '-',
        flops.ours or '-',
        _difference(flops, False),
    )


def _notes(table: Table, results: Sequence[Result]) -> List[str]:
    """The notes of a table and its rows, each once."""
    models: Dict[str, List[str]] = {}
    network = ''
    for result in results:
        row = result.row
        network = network if row.model.startswith('+') else row.model
        name = f'{row.model} ({network})' if result.verdict == UNKNOWN else row.model
        models.setdefault(row.note, []).append(name)
    models.pop('', None)
    notes = [f'{", ".join(names)}: {note}' for note, names in models.items()]
    return [table.note, *notes] if table.note else notes


def to_markdown(tables: Sequence[Table], results: Sequence[Sequence[Result]]) -> str:
    """A page of the documentation."""
    verdicts = [result.verdict for rows in results for result in rows]
    counts = ', '.join(f'{verdict} {verdicts.count(verdict)}' for verdict in VERDICTS)
    parts = [
        "# The paper's params and FLOPs, counted again",
        f'Made by `tools/analysis_tools/paper_tables.py`; do not edit. {UNITS}',
        '\n'.join(f'- {verdict}: {meaning}' for verdict, meaning in VERDICTS.items()),
        f'{len(verdicts)} rows: {counts}.',
    ]
    for table, rows in zip(tables, results):
        parts.append(f'## Table {table.number}: {table.title}')
        groups = list(dict.fromkeys(result.row.data for result in rows))
        for data in groups:
            if len(groups) > 1:
                parts.append(f'### {data}')
            cells = [_cells(result) for result in rows if result.row.data == data]
            parts.append(markdown.table(HEAD, cells, 3).rstrip())
        parts += _notes(table, rows)
    return '\n\n'.join(parts)


def to_json(tables: Sequence[Table], results: Sequence[Sequence[Result]]) -> str:
    """Everything, exact counts included."""
    content = [
        dict(
            table=table.number,
            title=table.title,
            note=table.note,
            rows=[
                dict(
                    vars(result.row),
                    data=result.row.data,
                    params=vars(result.params),
                    flops=vars(result.flops),
                    verdict=result.verdict,
                )
                for result in rows
            ],
        )
        for table, rows in zip(tables, results)
    ]
    return json.dumps(dict(units=UNITS, verdicts=VERDICTS, tables=content), indent=2)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Write the tables; exit with 1 if a row is off."""
    args = parse_args(argv)
    tables = read_tables(TABLES)
    tables = [t for t in tables if args.table is None or t.number in args.table]
    results = rebuild(CONFIGS, tables)
    page = (to_json if args.format == 'json' else to_markdown)(tables, results) + '\n'
    if args.out:
        args.out.write_text(page, encoding='utf-8')
    else:
        print(page, end='')
    off = [
        f'Table {table.number}, {result.row.model}'
        for table, rows in zip(tables, results)
        for result in rows
        if result.verdict == OFF
    ]
    if off:
        print(f'off: {"; ".join(off)}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
