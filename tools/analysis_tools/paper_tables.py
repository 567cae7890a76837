#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Rebuild the params and FLOPs columns of the paper's Tables 2, 3, 6, 11, 13 and 15.

Each figure stands beside the paper's, with the difference. The exit status is 1 if a
row that the authors measured is off.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from mmrla.analysis.paper import (
    OFF,
    TABLES,
    UNKNOWN,
    VERDICTS,
    Figure,
    Result,
    Table,
    rebuild,
)
from mmrla.engine.errors import one_line_errors

#: Beside the tools, in the repository as in the installed package.
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

UNITS = (
    'ImageNet: M is 2^20, G is 2^30; FLOPs are, for an image of 224x224, multiply-adds '
    'of convolutions and linear layers, 2 for each element that a batch norm writes, 1 '
    'for one of an average pooling, kernel area + 1 for one of an adaptive average '
    'pooling. CIFAR: M is 10^6.'
)
COMMAND = 'python tools/analysis_tools/paper_tables.py'

Results = Dict[int, List[Result]]


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a rebuild."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--table',
        type=int,
        nargs='+',
        choices=[table.number for table in TABLES],
        help='tables to rebuild (default: all)',
    )
    parser.add_argument(
        '--format',
        choices=('text', 'markdown', 'json'),
        default='text',
        help='(default: text)',
    )
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


HEAD = ('model', 'params', 'here', 'diff.', 'FLOPs', 'here', 'diff.', 'verdict')


def _cells(result: Result) -> Tuple[str, ...]:
    row, (params, flops) = result.row, (result.params, result.flops)
    return (
        row.model,
        params.paper,
        params.ours or '-',
        _difference(params, row.data != 'ImageNet'),
        flops.paper or '-',
        flops.ours or '-',
        _difference(flops, False),
        result.verdict,
    )


def _notes(table: Table, results: List[Result]) -> List[str]:
    """The table's note, and those of rows, each once."""
    notes = [table.note] if table.note else []
    for result in results:
        row = result.row
        if row.note:
            models = [r.row.model for r in results if r.row.note == row.note]
            note = f'{", ".join(models)}: {row.note}'
            if result.verdict == UNKNOWN:
                note = f'{row.model} ({_parent(result, results)}): {row.note}'
            notes.append(note)
    return list(dict.fromkeys(notes))


def _parent(result: Result, results: List[Result]) -> str:
    """The network that a row like '+SE' adds to."""
    before = [r.row.model for r in results[: results.index(result)]]
    return next(model for model in reversed(before) if not model.startswith('+'))


def _groups(results: List[Result]) -> List[Tuple[str, List[Result]]]:
    """Results by data set, in order."""
    return [
        (data, [r for r in results if r.row.data == data])
        for data in dict.fromkeys(r.row.data for r in results)
    ]


def _tables(results: Results) -> List[Tuple[Table, List[Result]]]:
    return [(t, results[t.number]) for t in TABLES if t.number in results]


def to_text(results: Results) -> str:
    """Tables for a terminal."""
    lines = []
    for table, rows in _tables(results):
        lines += [f'Table {table.number}: {table.title}']
        cells = [_cells(result) for result in rows]
        widths = [max(len(row[i]) for row in [HEAD, *cells]) for i in range(len(HEAD))]

        def line(row: Tuple[str, ...], widths: List[int] = widths) -> str:
            return '  '.join(
                cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()

        lines.append('  ' + line(HEAD))
        for data, group in _groups(rows):
            lines += [f'{data}:', *('  ' + line(_cells(result)) for result in group)]
        lines += [*_notes(table, rows), '']
    lines += [UNITS, '']
    lines += [f'{verdict}: {meaning}' for verdict, meaning in VERDICTS.items()]
    return '\n'.join([*lines, summary(results)])


def to_markdown(results: Results) -> str:
    """A page of the documentation."""
    lines = [
        "# The paper's params and FLOPs, rebuilt",
        '',
        f'Made by `{COMMAND} --format markdown`; do not edit. {UNITS}',
        '',
        *(f'- {verdict}: {meaning}' for verdict, meaning in VERDICTS.items()),
        '',
        summary(results),
    ]
    for table, rows in _tables(results):
        lines += ['', f'## Table {table.number}: {table.title}']
        for data, group in _groups(rows):
            lines += [
                '',
                f'### {data}' if len(_groups(rows)) > 1 else '',
                '',
                '| ' + ' | '.join((*HEAD, 'config')) + ' |',
                '|' + ' --- |' + ' ---: |' * 6 + ' --- | --- |',
            ]
            lines += [
                f'| {" | ".join(_cells(result))} | {_source(result.row.config)} |'
                for result in group
            ]
        for note in _notes(table, rows):
            lines += ['', note]
    # No blank lines in a row.
    kept = [a for a, b in zip(lines, ['x', *lines]) if a or b]
    return '\n'.join(kept)


def _source(config: Optional[str]) -> str:
    return f'[{Path(config).stem}](../configs/{config})' if config else '-'


def to_json(results: Results) -> str:
    """Everything, exact counts included."""

    def entry(result: Result) -> Dict[str, Any]:
        row = result.row
        return dict(
            model=row.model,
            data=row.data,
            config=row.config,
            added_to=row.base and row.base.config,
            params=vars(result.params),
            flops=vars(result.flops),
            verdict=result.verdict,
            note=row.note,
        )

    tables = [
        dict(
            table=table.number,
            title=table.title,
            note=table.note,
            rows=[entry(result) for result in rows],
        )
        for table, rows in _tables(results)
    ]
    return json.dumps(dict(units=UNITS, verdicts=VERDICTS, tables=tables), indent=2)


def summary(results: Results) -> str:
    """How many rows there are of each verdict."""
    verdicts = [result.verdict for rows in results.values() for result in rows]
    counts = [f'{verdict} {verdicts.count(verdict)}' for verdict in VERDICTS]
    return f'{len(verdicts)} rows: {", ".join(counts)}.'


FORMATS = {'text': to_text, 'markdown': to_markdown, 'json': to_json}


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Rebuild."""
    args = parse_args(argv)
    tables = [t for t in TABLES if args.table is None or t.number in args.table]
    results = rebuild(CONFIGS, tables)
    page = FORMATS[args.format](results) + '\n'
    if args.out:
        # Whole or not at all.
        temporary = args.out.with_name(args.out.name + '.part')
        temporary.write_text(page, encoding='utf-8')
        os.replace(temporary, args.out)
    else:
        print(page, end='')
    off = [
        f'Table {number}, {result.row.model}'
        for number, rows in results.items()
        for result in rows
        if result.verdict == OFF
    ]
    if off:
        print(f'off: {"; ".join(off)}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
