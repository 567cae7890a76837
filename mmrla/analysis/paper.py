# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The params and FLOPs columns of the paper's tables, rebuilt.

One table of rows: which config is which row, and what the paper prints there.
The rows of the released networks name its wiring where it changes the count
(MobileNetV2: one tied depthwise C3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from ..engine.config import load_config
from .complexity import DECIMAL_UNITS, PAPER_UNITS
from .networks import build, count

#: Name of the published score in the metafiles.
_ERROR = 'Top 1 Error (paper)'

#: How far a CIFAR parameter count may be from the paper's.
CIFAR_TOLERANCE = 0.015

AGREES, TWICE, OFF = 'agrees', 'rounded twice', 'OFF'
CITED, UNKNOWN = 'cited', 'unknown'

#: What the verdicts of rows mean.
VERDICTS = {
    AGREES: 'ImageNet: equal to the printed digit; CIFAR: parameters within '
    f'{CIFAR_TOLERANCE:.1%}',
    TWICE: 'equal if the count is rounded to three decimals, as counting tools '
    'print it, before it is rounded to those of the table',
    OFF: 'neither of these',
    CITED: "another paper's figures, not counted",
    UNKNOWN: 'neither the paper nor the released code says what the network is',
}

_CIFAR_FLOPS = (
    'The FLOPs of the CIFAR networks (about five times the parameters) are no count '
    'of multiply-adds: they come from another tool and cannot be rebuilt.'
)
_UNKNOWN_SE = (
    'where this SE sits and what its reduction is stands neither in the paper nor in '
    'the released code. Counted here: reduction 16 after the last batch norm of each '
    'block, as in the ResNets.'
)
_TRICKS = (
    'the printed figures are those of the network without the refinements of ResNet-D.'
)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        model: The row's name in the paper.
        config: Its config, relative to the folder of configs; None for figures
            that the paper cites from others.
        params: Parameters as printed, with unit; a sign marks what is added to
            ``base``.
        flops: FLOPs as printed, likewise; '' if there are none.
        data: Data set.
        base: The row that the figures are added to.
        note: What a reader should know.
        unknown: Whether neither paper nor released code say what the network
            is, so that the figures cannot be held against it.
    """

    model: str
    config: Optional[str]
    params: str
    flops: str
    data: str = 'ImageNet'
    base: Optional[Row] = None
    note: str = ''
    unknown: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: Its number.
        title: What it compares.
        rows: Its rows, those without params and FLOPs left out.
        note: What holds for the whole table.
    """

    number: int
    title: str
    rows: Sequence[Row]
    note: str = ''


@dataclass(frozen=True)
class Figure:
    """A figure of the paper and this package's.

    Attributes:
        paper: As printed.
        ours: The same, counted here and printed likewise; None if it is not.
        exact: The count; None if there is none.
        difference: ``ours`` less ``paper``, in the printed unit.
        relative: ``difference`` over the paper's count for the whole network;
            None for FLOPs.
    """

    paper: str
    ours: Optional[str] = None
    exact: Optional[int] = None
    difference: Optional[float] = None
    relative: Optional[float] = None


@dataclass(frozen=True)
class Result:
    """A row, rebuilt.

    Attributes:
        row: The row.
        params: Its parameters.
        flops: Its FLOPs.
        verdict: One of :data:`VERDICTS`.
    """

    row: Row
    params: Figure
    flops: Figure
    verdict: str


_DATA = {
    '4xb64_in1k': 'ImageNet',
    '2xb48_in1k': 'ImageNet',
    '1xb128_cifar10': 'CIFAR-10',
    '1xb128_cifar100': 'CIFAR-100',
}


def _rows(recipe: str, *rows: Tuple[str, str, str, str]) -> List[Row]:
    """Rows of (model, config without its recipe, params, FLOPs)."""
    return [
        Row(model, f'{config}_{recipe}.py', params, flops, _DATA[recipe])
        for model, config, params, flops in rows
    ]


def _with_rla(
    recipe: str,
    model: str,
    config: str,
    params: str,
    flops: str,
    added_params: str,
    added_flops: str,
) -> List[Row]:
    """A row of Table 2 as two, the network and what RLA adds to it."""
    (base,) = _rows(recipe, (model, f'cifar/{config}', params, flops))
    (rla,) = _rows(recipe, ('+RLA', f'cifar/rla-{config}', added_params, added_flops))
    return [base, replace(rla, base=base)]


def _cited(*rows: Tuple[str, str, str]) -> List[Row]:
    return [Row(model, None, params, flops) for model, params, flops in rows]


TABLES: Tuple[Table, ...] = (
    Table(
        2,
        'CIFAR-10 and CIFAR-100',
        [
            row
            for recipe, figures in (
                (
                    '1xb128_cifar10',
                    (
                        ('1.73M', '8.67M', '+0.07M', '+0.37M'),
                        ('1.72M', '8.55M', '+0.02M', '+0.19M'),
                        ('2.70M', '13.54M', '+0.07M', '+0.33M'),
                    ),
                ),
                (
                    '1xb128_cifar100',
                    (
                        ('1.74M', '8.69M', '+0.07M', '+0.38M'),
                        ('1.74M', '8.67M', '+0.02M', '+0.19M'),
                        ('2.75M', '13.77M', '+0.06M', '+0.33M'),
                    ),
                ),
            )
            for (model, config), printed in zip(
                (
                    ('ResNet-110', 'resnet110'),
                    ('ResNet-164', 'resnet164'),
                    ('Xception', 'xception'),
                ),
                figures,
            )
            for row in _with_rla(recipe, model, config, *printed)
        ],
        note=f'{_CIFAR_FLOPS} What RLA adds is held against {CIFAR_TOLERANCE:.1%} of '
        'the network with RLA.',
    ),
    Table(
        3,
        'ImageNet',
        [
            *_rows(
                '4xb64_in1k',
                ('ResNet-50', 'baselines/resnet50', '24.37M', '3.83G'),
                ('+RLA', 'rla_resnet/rla-resnet50-released', '24.67M', '4.17G'),
                ('+SE', 'baselines/se-resnet50', '26.77M', '3.84G'),
                ('+CBAM', 'baselines/cbam-resnet50', '26.77M', '3.84G'),
                ('+ECA', 'baselines/eca-resnet50', '24.37M', '3.83G'),
                ('+ECA+RLA', 'rla_resnet/rla-ecanet50-released', '24.67M', '4.18G'),
                ('ResNet-101', 'baselines/resnet101', '42.49M', '7.30G'),
                ('+RLA', 'rla_resnet/rla-resnet101-released', '42.92M', '7.79G'),
                ('+SE', 'baselines/se-resnet101', '47.01M', '7.31G'),
                ('+CBAM', 'baselines/cbam-resnet101', '47.01M', '7.31G'),
                ('+ECA', 'baselines/eca-resnet101', '42.49M', '7.30G'),
                ('+ECA+RLA', 'rla_resnet/rla-ecanet101-released', '42.92M', '7.80G'),
                ('ResNet-152', 'baselines/resnet152', '57.40M', '10.77G'),
                ('+RLA', 'rla_resnet/rla-resnet152-released', '57.96M', '11.47G'),
                ('+SE', 'baselines/se-resnet152', '63.68M', '10.78G'),
                ('+ECA', 'baselines/eca-resnet152', '57.41M', '10.78G'),
                ('+ECA+RLA', 'rla_resnet/rla-ecanet152-released', '57.96M', '11.48G'),
            ),
            *(
                replace(row, unknown=True, note=_UNKNOWN_SE)
                if row.model == '+SE'
                else row
                for row in _rows(
                    '2xb48_in1k',
                    ('MobileNetV2', 'baselines/mobilenet-v2', '3.34M', '299.6M'),
                    (
                        '+RLA',
                        'rla_mobilenet_v2/rla-mobilenet-v2-released',
                        '3.46M',
                        '351.8M',
                    ),
                    ('+SE', 'baselines/se-mobilenet-v2', '3.51M', '300.3M'),
                    ('+ECA', 'baselines/eca-mobilenet-v2', '3.34M', '300.1M'),
                    (
                        '+ECA+RLA',
                        'rla_mobilenet_v2/rla-eca-mobilenet-v2-released',
                        '3.46M',
                        '352.4M',
                    ),
                )
            ),
            *_cited(
                ('DenseNet-161 (k=48)', '27.35M', '7.34G'),
                ('DenseNet-264 (k=32)', '31.79M', '5.52G'),
                ('ResNet-200', '74.45M', '14.10G'),
                ('DPN-68', '12.80M', '2.50G'),
                ('DPN-92', '38.00M', '6.50G'),
                ('DPN-98', '61.60M', '11.70G'),
                ('AOGNet-12M', '11.90M', '2.40G'),
                ('AOGNet-40M', '40.30M', '8.90G'),
                ('HCGNet-B', '12.90M', '2.00G'),
                ('HCGNet-C', '42.20M', '7.10G'),
            ),
            *(
                replace(row, note=_TRICKS)
                for row in _rows(
                    '4xb64_in1k',
                    (
                        'RLA-ResNet-50, tricks',
                        'rla_resnet/rla-resnet50-released',
                        '24.67M',
                        '4.17G',
                    ),
                    (
                        'RLA-ECANet-50, tricks',
                        'rla_resnet/rla-ecanet50-released',
                        '24.67M',
                        '4.18G',
                    ),
                )
            ),
        ],
        note='MobileNetV2: the average before the classifier is not counted; with it '
        '+RLA and +ECA would be off by one in the last digit.',
    ),
    Table(
        6,
        'Ablations on ImageNet',
        _rows(
            '4xb64_in1k',
            ('ResNet-50', 'baselines/resnet50', '24.37M', '3.83G'),
            ('(a) channel +32', 'ablations/rla-resnet50-channels32', '25.55M', '4.24G'),
            ('(b) unshared', 'ablations/rla-resnet50-unshared', '25.12M', '4.17G'),
            (
                '(c) no exchange',
                'ablations/rla-resnet50-no-exchange',
                '24.56M',
                '4.11G',
            ),
            ('(d) ConvLSTM', 'ablations/rla-resnet50-convlstm', '24.92M', '5.00G'),
            ('(e) PostAct.', 'ablations/rla-resnet50-post-act', '24.67M', '4.17G'),
            ('RLA-v1', 'rla_resnet/rla-resnet50', '24.67M', '4.17G'),
            ('(f) RLA-v2', 'ablations/rla-resnet50-v2', '24.67M', '4.17G'),
            ('(g) RLA-v3', 'ablations/rla-resnet50-v3', '24.67M', '4.17G'),
            ('(h) RLA-v4', 'ablations/rla-resnet50-v4', '24.67M', '4.17G'),
            ('(i) RLA-v5', 'ablations/rla-resnet50-v5', '24.67M', '4.17G'),
            ('(j) RLA-v6', 'ablations/rla-resnet50-v6', '24.67M', '4.17G'),
        ),
    ),
    Table(
        11,
        'Ablations on CIFAR-10',
        _rows(
            '1xb128_cifar10',
            ('ResNet-164', 'cifar/resnet164', '1.72M', ''),
            ('channel +12', 'ablations/rla-resnet164-channels12', '1.93M', ''),
            ('unshared', 'ablations/rla-resnet164-unshared', '1.90M', ''),
            ('no exchange', 'ablations/rla-resnet164-no-exchange', '1.72M', ''),
            ('ConvLSTM', 'ablations/rla-resnet164-convlstm', '1.77M', ''),
            ('PostAct.', 'ablations/rla-resnet164-post-act', '1.74M', ''),
            ('DenseNet (DPN)', 'ablations/resnet164-dpn', '2.13M', ''),
            ('RLA-v1', 'cifar/rla-resnet164', '1.74M', ''),
            ('RLA-v2', 'ablations/rla-resnet164-v2', '1.74M', ''),
            ('RLA-v3', 'ablations/rla-resnet164-v3', '1.74M', ''),
            ('RLA-v4', 'ablations/rla-resnet164-v4', '1.74M', ''),
            ('RLA-v5', 'ablations/rla-resnet164-v5', '1.74M', ''),
            ('RLA-v6', 'ablations/rla-resnet164-v6', '1.74M', ''),
        ),
    ),
    Table(
        13,
        'Channels of the hidden state, ResNet-164',
        _rows(
            '1xb128_cifar10',
            ('RLA-v1 (k=8)', 'ablations/rla-resnet164-k8', '1.73M', ''),
            ('RLA-v1 (k=12)', 'cifar/rla-resnet164', '1.74M', ''),
            ('RLA-v1 (k=16)', 'ablations/rla-resnet164-k16', '1.75M', ''),
            ('RLA-v1 (k=24)', 'ablations/rla-resnet164-k24', '1.78M', ''),
        ),
    ),
    Table(
        15,
        'Shared and unshared weights',
        [
            *_rows(
                '1xb128_cifar10',
                ('RLA-ResNet-164', 'cifar/rla-resnet164', '1.74M', '8.74M'),
                ('unshared', 'ablations/rla-resnet164-unshared', '1.90M', '8.74M'),
            ),
            *_rows(
                '4xb64_in1k',
                (
                    'RLA-ResNet-50',
                    'rla_resnet/rla-resnet50-released',
                    '24.67M',
                    '4.17G',
                ),
                ('unshared', 'ablations/rla-resnet50-unshared', '25.12M', '4.17G'),
                (
                    'RLA-ResNet-101',
                    'rla_resnet/rla-resnet101-released',
                    '42.92M',
                    '7.79G',
                ),
                ('unshared', 'ablations/rla-resnet101-unshared', '44.05M', '7.79G'),
            ),
        ],
        note=_CIFAR_FLOPS,
    ),
)


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
        paper: As printed, with unit and, for what is added, sign.
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
    """How a figure of ImageNet compares in its last printed digit."""
    if figure.ours == figure.paper:
        return AGREES
    assert figure.exact is not None  # there is a count
    printed, digits, unit = _parse(figure.paper)
    three = Decimal(f'{figure.exact / PAPER_UNITS[unit]:.3f}')
    twice = three.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return TWICE if float(twice) == printed else OFF


class Counter:
    """Counts the rows of tables; a network that is in several only once.

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

    def row(self, row: Row) -> Result:
        """Rebuild a row.

        Raises:
            UserError: If its config does not exist.
        """
        if row.config is None:
            return Result(row, Figure(row.params), Figure(row.flops), CITED)
        imagenet = row.data == 'ImageNet'
        units = PAPER_UNITS if imagenet else DECIMAL_UNITS
        exact, exact_flops = self._count(row)
        whole = None
        if row.base is not None:
            exact -= self._count(row.base)[0]
            whole = _parse(row.base.params)[0] + _parse(row.params)[0]
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


def rebuild(configs: Path, tables: Sequence[Table] = TABLES) -> Dict[int, List[Result]]:
    """Rebuild tables.

    Args:
        configs: The folder of configs.
        tables: Which tables; all by default.

    Returns:
        The results by the table's number.

    Raises:
        UserError: If a row's config does not exist.
    """
    counter = Counter(configs)
    return {table.number: [counter.row(row) for row in table.rows] for table in tables}


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
