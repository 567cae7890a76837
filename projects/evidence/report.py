#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Write the tables of README.md from results.jsonl.

Differences to the plain network are paired by seed. Their 95% intervals are Student's
t; their p values are corrected for their number (Holm 1979) over all of the report.

    python projects/evidence/report.py
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

from mmrla.analysis.markdown import filled, table
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError
from projects.evidence.run import Line, read_lines

HERE = Path(__file__).resolve().parent
MARKS = ('<!-- results -->', '<!-- /results -->')


@dataclass(frozen=True)
class Score:
    """A column: ``offset + factor * result``.

    Attributes:
        key: The result's name.
        label: Its name in tables.
        factor: Defaults to 100.
        offset: Defaults to 0.
    """

    key: str
    label: str
    factor: float = 100.0
    offset: float = 0.0


_AP = (
    Score('coco/bbox_mAP', 'AP'),
    Score('coco/bbox_mAP_50', 'AP50'),
    *(Score(f'coco/bbox_mAP_{size}', f'AP {size}') for size in 'sml'),
    *(Score(f'coco/{name}_precision', f'AP {name}') for name in ('RBC', 'WBC')),
    Score('coco/Platelets_precision', 'AP Platelets'),
)
_ERROR = (Score('accuracy/top1', 'Error', -1.0, 100.0),)
#: Scores of each experiment; networks are compared by the first one.
SCORES: Dict[str, Tuple[Score, ...]] = {
    'retinanet': _AP,
    'faster-rcnn': _AP,
    'resnet20': _ERROR,
    'resnet20-scratch': _ERROR,
}


@dataclass(frozen=True)
class Difference:
    """Scores of one network minus those of another, paired by seed.

    Attributes:
        pairs: How many seeds both have.
        mean: The mean difference.
        low: Where its 95% interval begins; NaN for one pair.
        high: Where it ends.
        p: Of Student's test that it is zero; NaN for one pair.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p: float


def difference(
    one: Mapping[int, float], other: Mapping[int, float]
) -> Optional[Difference]:
    """How far scores lie above others.

    Args:
        one: Scores by seed.
        other: Those that they are held against.

    Returns:
        None if no seed is in both.
    """
    values = [one[seed] - other[seed] for seed in one if seed in other]
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) == 1:
        return Difference(1, mean, math.nan, math.nan, math.nan)
    error = stats.sem(values)
    if not error:  # the same difference for each seed
        return Difference(len(values), mean, mean, mean, 1.0 if not mean else 0.0)
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    p = stats.ttest_1samp(values, 0.0).pvalue
    return Difference(len(values), mean, float(low), float(high), float(p))


def holm(values: Sequence[float]) -> List[float]:
    """p values corrected for their number (Holm 1979); NaN stays and is not counted."""
    order = [i for i in np.argsort(values) if not math.isnan(values[i])]
    corrected, largest = list(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min((len(order) - rank) * values[i], 1.0))
        corrected[i] = largest
    return corrected


def by_seed(lines: Sequence[Line], config: str, score: Score) -> Dict[int, float]:
    """A score of a network by seed.

    Raises:
        UserError: If its lines are of more than one recipe.
    """
    own = [line for line in lines if line['config'] == config]
    recipes = sorted({line['recipe'] for line in own})
    if len(recipes) > 1:
        raise UserError(
            f'{config} has lines with the recipes {", ".join(recipes)}: remove '
            'those of all but one'
        )
    return {
        line['seed']: score.offset + score.factor * line['scores'][score.key]
        for line in own
        # COCO's -1 stands for sizes that no object has.
        if line['scores'].get(score.key, -1) >= 0
    }


def networks_of(lines: Sequence[Line], experiment: str) -> List[str]:
    """Configs of an experiment that have lines, the plain one first."""
    found = {n for n in (x['config'] for x in lines) if n.startswith(f'{experiment}_')}
    return sorted(found, key=lambda name: (not name.endswith('_plain'), name))


def _number(value: float, digits: str = '.1f') -> str:
    text = '' if math.isnan(value) else format(value + 0.0, digits)
    return text.replace('-', '\N{MINUS SIGN}')


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return ''
    if len(values) == 1:
        return _number(values[0])
    return f'{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}'


def _conditions(lines: Sequence[Line]) -> str:
    def words(key: str) -> str:
        return ', '.join(sorted({str(line[key]) for line in lines}))

    return (
        f'{len(lines)} runs on {words("device")}, threads: {words("threads")}, torch '
        f'{words("torch")}; hash of the data {words("data")}, commit '
        f'{words("commit")}.\n'
    )


def reads_table(lines: Sequence[Line]) -> str:
    """Scores of trained networks whose reads or states are taken away.

    Args:
        lines: Of reads.py.
    """
    rows = []
    for name in sorted({line['config'] for line in lines}):
        score = SCORES[name.partition('_')[0]][0]
        own = [line for line in lines if line['config'] == name]
        cells = [
            _spread([score.offset + score.factor * x[variant][score.key] for x in own])
            for variant in ('trained', 'no_reads', 'reset')
        ]
        rows.append([name, score.label, str(len(own)), *cells])
    head = ['Network', 'Score', 'Seeds', 'As trained', 'Reads zero', 'State reset']
    return table(head, rows, words=2)


def report(lines: Sequence[Line], reads: Sequence[Line] = ()) -> str:
    """The tables in Markdown.

    Args:
        lines: Of run.py.
        reads: Of reads.py.
    """
    parts: List[str] = []
    compared: List[List[str]] = []
    p_values: List[float] = []
    for experiment, scores in SCORES.items():
        networks = networks_of(lines, experiment)
        if not networks:
            continue
        rows = []
        plain = by_seed(lines, f'{experiment}_plain', scores[0])
        for name in networks:
            own = [line for line in lines if line['config'] == name]
            label = name.partition('_')[2]
            minutes = [
                (x['train_cpu_seconds'] + x['test_cpu_seconds']) / 60
                for x in own
                if 'train_cpu_seconds' in x
            ]
            values = [[*by_seed(lines, name, score).values()] for score in scores]
            cells = [_spread(v) for v in values]
            cost = _number(float(np.mean(minutes))) if minutes else ''
            rows.append([label, str(len(own)), *cells, cost])
            found = difference(by_seed(lines, name, scores[0]), plain)
            if label != 'plain' and found:
                p_values.append(found.p)
                interval = 'one seed'
                if found.pairs > 1:
                    interval = f'{_number(found.low, "+.1f")} to '
                    interval += _number(found.high, '+.1f')
                compared.append(
                    [experiment, label, scores[0].label, str(found.pairs)]
                    + [_number(found.mean, '+.1f'), interval, _number(found.p, '.3f')]
                )
        head = ['Network', 'Runs', *(s.label for s in scores), 'CPU minutes']
        own = [line for line in lines if line['config'] in networks]
        parts += [f'### {experiment}\n', _conditions(own), table(head, rows)]
    if compared:
        for row, p in zip(compared, holm(p_values)):
            row.append(_number(p, '.3f'))
        head = ['Experiment', 'Network', 'Score', 'Seeds', 'To plain']
        head += ['95% interval', 'p', 'p (Holm)']
        parts += ['### Differences to the plain network\n']
        parts += [table(head, compared, words=3)]
    if reads:
        parts += ['### What the hidden state carries\n', reads_table(reads)]
    return '\n'.join(parts) or 'No run is recorded yet.\n'


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--results', type=Path, default=HERE / 'results.jsonl')
    parser.add_argument('--reads', type=Path, default=HERE / 'reads.jsonl')
    parser.add_argument('--page', type=Path, default=HERE / 'README.md')
    args = parser.parse_args(argv)
    text = report(read_lines(args.results), read_lines(args.reads))
    args.page.write_text(filled(args.page, {MARKS: text}), encoding='utf-8')


if __name__ == '__main__':
    main()
