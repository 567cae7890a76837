# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Counts of parameters and FLOPs beside those of the paper's tables."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from ..engine.config import load_config
from .complexity import DECIMAL_UNITS, PAPER_UNITS
from .networks import build, count

#: Name of the published score in the metafiles.
_ERROR = 'Top 1 Error (paper)'

#: Tolerance of CIFAR parameter counts.
CIFAR_TOLERANCE = 0.015

AGREES, TWICE, OFF = 'agrees', 'rounded twice', 'OFF'
CITED, UNKNOWN = 'cited', 'unknown'

#: What the verdicts mean.
VERDICTS = {
    AGREES: 'ImageNet: equal to the printed digit; CIFAR: parameters within '
    f'{CIFAR_TOLERANCE:.1%}',
    TWICE: 'equal if the count is rounded to three decimals, as counting tools '
    'print it, before it is rounded to those of the table',
    OFF: 'neither of these',
    CITED: "another paper's figures, not counted",
    UNKNOWN: 'neither the paper nor the released code says what the network is',
}


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        model: The row's name in the paper.
        params: Parameters as printed, with unit; a sign means that the row gives
            the difference to the row before.
        flops: FLOPs as printed, likewise; '' if there are none.
        config: Its config, relative to the folder of configs; None for figures
            that the paper cites.
        note: A remark for the reader.
        unknown: Whether neither the paper nor the released code defines the
            network, so that its figures cannot be checked.
    """

    model: str
    params: str
    flops: str = ''
    config: Optional[str] = None
    note: str = ''
    unknown: bool = False

    @property
    def data(self) -> str:
        """The data set, from the config's name."""
        name = self.config or ''
        cifar = {'_cifar10.py': 'CIFAR-10', '_cifar100.py': 'CIFAR-100'}
        return next((d for end, d in cifar.items() if name.endswith(end)), 'ImageNet')


@dataclass(frozen=True)
class Table:
    """A table of the paper; rows without params and FLOPs are left out."""

    number: int
    title: str
    rows: Sequence[Row]
    note: str = ''


@dataclass(frozen=True)
class Figure:
    """A figure of the paper and ours.

    Attributes:
        paper: As printed.
        ours: Our count, printed likewise; None if there is none.
        exact: Our count; None if there is none.
        difference: ``ours`` minus ``paper``, in the printed unit.
        relative: ``difference`` over the paper's figure for the whole network.
    """

    paper: str
    ours: Optional[str] = None
    exact: Optional[int] = None
    difference: Optional[float] = None
    relative: Optional[float] = None


@dataclass(frozen=True)
class Result:
    """A row with our counts, and one of :data:`VERDICTS`."""

    row: Row
    params: Figure
    flops: Figure
    verdict: str


def read_tables(path: Path) -> List[Table]:
    """The tables in a YAML file like tools/analysis_tools/paper_tables.yml."""
    tables = yaml.safe_load(path.read_text(encoding='utf-8'))
    return [Table(**{**t, 'rows': [Row(**row) for row in t['rows']]}) for t in tables]


def _parse(printed: str) -> Tuple[float, int, str]:
    """Value in the printed unit, digits after the point, unit."""
    number, unit = printed[:-1], printed[-1]
    return float(number), len(number.partition('.')[2]), unit


def figure(
    paper: str,
    exact: Optional[int],
    units: Mapping[str, int],
    whole: Optional[float] = None,
) -> Figure:
    """A count beside the paper's.

    Args:
        paper: As printed, with unit and, for a difference, sign.
        exact: The count, None if there is none.
        units: What 'M' and 'G' are.
        whole: The paper's figure for the whole network, in its unit, where
            ``paper`` is a part of it; for ``relative``.
    """
    if exact is None:
        return Figure(paper)
    printed, digits, unit = _parse(paper)
    sign = '+' if paper.startswith('+') else ''
    ours = f'{exact / units[unit]:{sign}.{digits}f}'
    return Figure(
        paper,
        ours + unit,
        exact,
        # Without -0.0.
        round(float(ours) - printed, digits) + 0.0,
        (exact / units[unit] - printed) / (whole or printed),
    )


def _agreement(figure: Figure) -> str:
    """How an ImageNet figure compares in its last printed digit."""
    if figure.ours == figure.paper:
        return AGREES
    assert figure.exact is not None  # there is a count
    printed, digits, unit = _parse(figure.paper)
    three = Decimal(f'{figure.exact / PAPER_UNITS[unit]:.3f}')
    twice = three.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return TWICE if float(twice) == printed else OFF


class Counter:
    """Counts networks, each only once.

    Args:
        configs: The folder of configs.
    """

    def __init__(self, configs: Path) -> None:
        self.configs = configs
        self._counts: Dict[str, Tuple[int, Optional[int]]] = {}

    def _count(self, row: Row) -> Tuple[int, Optional[int]]:
        """Parameters and, on ImageNet, FLOPs by the paper's rule."""
        assert row.config is not None
        if row.config not in self._counts:
            cfg = load_config(str(self.configs / row.config))
            if row.data == 'ImageNet':
                params, cost = count(cfg, (224, 224)).of()
                self._counts[row.config] = params, cost.paper_flops
            else:
                params = sum(param.numel() for param in build(cfg).parameters())
                self._counts[row.config] = params, None
        return self._counts[row.config]

    def row(self, row: Row, before: Optional[Row] = None) -> Result:
        """Count a row.

        Args:
            row: The row.
            before: The row before it, to which signed figures are added.

        Raises:
            UserError: If its config does not exist.
        """
        if row.config is None:
            return Result(row, Figure(row.params), Figure(row.flops), CITED)
        imagenet = row.data == 'ImageNet'
        units = PAPER_UNITS if imagenet else DECIMAL_UNITS
        exact, exact_flops = self._count(row)
        whole = None
        if row.params.startswith('+'):
            assert before is not None
            exact -= self._count(before)[0]
            whole = _parse(before.params)[0] + _parse(row.params)[0]
        params = figure(row.params, exact, units, whole)
        flops = figure(row.flops, exact_flops, units)
        if row.unknown:
            verdict = UNKNOWN
        elif imagenet:
            verdict = max(
                _agreement(params), _agreement(flops), key=(AGREES, TWICE, OFF).index
            )
        else:
            assert params.relative is not None  # there is a count
            verdict = AGREES if abs(params.relative) <= CIFAR_TOLERANCE else OFF
        return Result(row, params, flops, verdict)


def rebuild(configs: Path, tables: Sequence[Table]) -> List[List[Result]]:
    """The results of each table's rows.

    Args:
        configs: The folder of configs.
        tables: The tables.

    Raises:
        UserError: If a row's config does not exist.
    """
    counter = Counter(configs)
    return [
        [counter.row(*pair) for pair in zip(t.rows, [None, *t.rows])] for t in tables
    ]


def published_errors(configs: Path) -> Dict[str, float]:
    """The paper's top-1 errors by config, relative to the folder of configs."""
    errors = {}
    for path in sorted(configs.glob('*/metafile.yml')):
        for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']:
            for result in model.get('Results') or ():
                if _ERROR in result['Metrics']:
                    config = model['Config'].replace('configs/', '', 1)
                    errors[config] = float(result['Metrics'][_ERROR])
    return errors
