# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tables and a plot of what the runs of the experiments gave."""

from __future__ import annotations

import math
import textwrap
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import plots
from .experiments import (
    EXPERIMENTS,
    Difference,
    Experiment,
    Line,
    Network,
    Score,
    difference,
    summary,
    values,
)
from .markdown import table

__all__ = [
    'PLOT_HEAD',
    'beside_the_paper',
    'draw',
    'experiment_text',
    'plot_rows',
]

#: Columns of :func:`plot_rows`.
PLOT_HEAD = ('experiment', 'network', 'score', 'seed', 'value')
_NOT_RUN = 'No run is recorded yet.\n'


def _signed(value: float, decimals: int) -> str:
    # Plus zero: what rounds to zero is not shown as minus zero.
    return f'{round(value, decimals) + 0.0:+.{decimals}f}'.replace(
        '-', '\N{MINUS SIGN}'
    )


def _mean(score: Score, scores: Sequence[float]) -> str:
    """Mean and standard deviation in words."""
    if not scores:
        return ''
    _, mean, std = summary(scores)
    spread = '' if math.isnan(std) else f' ± {std:.{score.decimals}f}'
    return f'{mean:.{score.decimals}f}{spread}'


def _verdict(score: Score, found: Difference) -> str:
    """What a difference shows."""
    if not found.is_shown:
        return 'no difference shown'
    return 'better' if (found.mean < 0) == score.lower_is_better else 'worse'


def _compared(
    experiment: Experiment, lines: Sequence[Line]
) -> List[Tuple[Network, Score, Difference]]:
    """All differences to plain networks that there are."""
    found = []
    for network in experiment.networks:
        if network.plain is None:
            continue
        plain = experiment.network(network.plain)
        for score in experiment.scores:
            if score.compared:
                one, other = (
                    values(lines, experiment, n, score) for n in (network, plain)
                )
                result = difference(one, other)
                if result is not None:
                    found.append((network, score, result))
    return found


def _interval(score: Score, found: Difference) -> str:
    if math.isnan(found.half_width):
        return 'one seed'
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return f'{_signed(low, score.decimals)} to {_signed(high, score.decimals)}'


def _of(lines: Sequence[Line], experiment: Experiment) -> List[Line]:
    return [line for line in lines if line['experiment'] == experiment.name]


def _words(values_: Sequence[Any]) -> str:
    """Different values, in the order in which they come."""
    return ', '.join(dict.fromkeys(str(value) for value in values_))


def _conditions(experiment: Experiment, lines: Sequence[Line]) -> str:
    """How it was run, in a few sentences."""
    first, seeds = lines[0], sorted({line['seed'] for line in lines})
    text = (
        f'{len(lines)} runs, seeds {_words(seeds)}; '
        f'{first["iterations"]:,} iterations, {first["images"]:,} images in all '
        f'({first["epochs"]:g} epochs)'
    )
    which = 'the same' if experiment.loss_levels else f'{first["test_images"]:,}'
    text += f'; tested on {which} images'
    known = {
        key: _words([line[key] for line in lines])
        for key in ('device', 'threads', 'torch', 'data', 'commit')
    }
    text += (
        f'. On {known["device"]}, threads of a run: {known["threads"]}, '
        f'torch {known["torch"]}. Hash of the data: {known["data"]}; '
        f'commits: {known["commit"]}.'
    )
    return textwrap.fill(text, 88) + '\n'


def experiment_text(experiment: Experiment, lines: Sequence[Line]) -> str:
    """How an experiment was run, its scores, and the differences.

    Args:
        experiment: The experiment.
        lines: All results.
    """
    own = _of(lines, experiment)
    if not own:
        return _NOT_RUN
    rows = []
    for network in experiment.networks:
        runs = [line for line in own if line['network'] == network.label]
        minutes = [
            sum(line.get(f'{tool}_cpu_seconds', 0) for tool in ('train', 'test')) / 60
            for line in runs
            if 'train_cpu_seconds' in line
        ]
        scores = [
            _mean(score, [*values(own, experiment, network, score).values()])
            for score in experiment.scores
        ]
        cost = f'{summary(minutes).mean:.1f}' if minutes else ''
        rows.append([network.label, str(len(runs)), *scores, cost])
    head = ['Network', 'Runs', *(score.label for score in experiment.scores)]
    text = _conditions(experiment, own)
    text += '\n' + table([*head, 'CPU minutes a run'], rows)
    compared = [
        [
            network.label,
            str(network.plain),
            score.label,
            str(found.size),
            _signed(found.mean, score.decimals),
            _interval(score, found),
            _verdict(score, found),
        ]
        for network, score, found in _compared(experiment, own)
    ]
    if compared:
        head = ['Network', 'Against', 'Score', 'Pairs', 'Difference', '95% interval']
        text += '\n' + table([*head, 'Shown'], compared, words=3)
    return text


def beside_the_paper(
    experiment: Experiment, lines: Sequence[Line], published: Mapping[str, float]
) -> str:
    """The first score beside the paper's.

    Args:
        experiment: The experiment.
        lines: All results.
        published: The paper's score by config.
    """
    score = experiment.scores[0]
    compared = {
        network.label: found
        for network, which, found in _compared(experiment, _of(lines, experiment))
        if which is score
    }

    def of_paper(network: Optional[Network]) -> Optional[float]:
        # A config with other settings is another network than the paper's.
        if network is None or network.options:
            return None
        return published.get(network.config)

    rows = []
    for network in experiment.networks:
        scores = [*values(lines, experiment, network, score).values()]
        plain = experiment.network(network.plain) if network.plain else None
        paper, paper_plain = of_paper(network), of_paper(plain)
        both = paper is not None and paper_plain is not None
        found = compared.get(network.label)
        rows.append(
            [
                network.label,
                '' if paper is None else f'{paper:.2f}',
                _signed(paper - paper_plain, 2) if both else '',  # type: ignore
                _mean(score, scores),
                _signed(found.mean, score.decimals) if found else '',
                _interval(score, found) if found else '',
            ]
        )
    head = ['Network', 'Paper: error', 'to plain', 'Here: error', 'to plain']
    return table([*head, '95% interval'], rows)


# --- the plot -----------------------------------------------------------------


def _panels(lines: Sequence[Line]) -> List[Tuple[Experiment, Score]]:
    """What is plotted: the compared scores that were measured."""
    return [
        (experiment, score)
        for experiment in EXPERIMENTS.values()
        for score in experiment.scores
        if score.compared and _of(lines, experiment)
    ]


def plot_rows(lines: Sequence[Line]) -> List[Tuple[Any, ...]]:
    """The numbers in the plot, a row for each run and score."""
    return [
        (experiment.name, network.label, score.label, seed, value)
        for experiment, score in _panels(lines)
        for network in experiment.networks
        for seed, value in values(lines, experiment, network, score).items()
    ]


def draw(lines: Sequence[Line]) -> Any:
    """The compared scores: each run a dot, mean and standard deviation beside.

    Args:
        lines: All results; there must be some.
    """
    panels = _panels(lines)
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure, axes = plots.add_figure(rows, columns, (5.2 * columns, 3.1 * rows))
    for ax in axes.flat[len(panels) :]:
        ax.axis('off')
    for ax, (experiment, score) in zip(axes.flat, panels):
        labels: Dict[str, int] = {}
        for network in experiment.networks:
            scores = [*values(lines, experiment, network, score).values()]
            if not scores:
                continue
            at = labels.setdefault(network.label, len(labels))
            size, mean, std = summary(scores)
            look = dict(fmt='D', color='black', markersize=5, capsize=4, linewidth=1.4)
            ax.errorbar(mean, at - 0.15, xerr=std if size > 1 else None, **look)
            ax.plot(scores, [at + 0.15] * size, 'o', color='0.55', markersize=4.5)
        ax.set_yticks(range(len(labels)), list(labels), fontsize=8)
        ax.invert_yaxis()
        ax.set_xlabel(score.label)
        ax.set_title(experiment.title, fontsize=10)
    return figure
