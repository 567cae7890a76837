# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Read work_dirs of trainings and tests, and draw their curves."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from ..engine.checkpoint_io import newest_whole
from ..errors import UserError
from . import plots

__all__ = [
    'CURVES_HEAD',
    'Run',
    'by_step',
    'curve_keys',
    'curves_table',
    'draw_curves',
    'read_run',
    'read_runs',
    'read_scalars',
    'smooth',
]

#: Columns of :func:`curves_table`.
CURVES_HEAD = ('run', 'scalar', 'step', 'value')
#: Drawn by default, and listed first.
_MAIN = ('coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1')
#: Logged beside the metrics.
_NO_METRICS = ('data_time', 'time', 'step', 'epoch', 'iter', 'memory', 'lr')


@dataclass(frozen=True)
class Run:
    """A work_dir.

    Attributes:
        name: Its name, unique among the compared runs.
        work_dir: The folder.
        config: The config of the run; None if there is none.
        scalars: The logged values, oldest first.
        tests: Results of the newest test, by metric.
    """

    name: str
    work_dir: Path
    config: Optional[Path] = None
    scalars: List[Dict[str, Any]] = field(default_factory=list)
    tests: Dict[str, float] = field(default_factory=dict)

    @property
    def validations(self) -> Dict[str, Dict[int, float]]:
        """Each validation metric by epoch (or iteration)."""
        keys: Dict[str, None] = {}
        for record in self.scalars:
            if 'iter' not in record and 'loss' not in record:
                keys.update(dict.fromkeys(k for k in record if _is_metric(k, record)))
        return {key: by_step(self.scalars, key) for key in keys}

    @property
    def config_name(self) -> str:
        """Name of the config's file, '-' if there is none."""
        # MMEngine keeps it in the work_dir, beside the config of each session.
        named = sorted(self.work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
        path = named[-1] if named else self.config
        return path.name if path else '-'

    def checkpoint(self) -> Optional[Path]:
        """The last whole checkpoint, if there is one."""
        folder = str(self.work_dir)
        for template in ('epoch_{}.pth', 'iter_{}.pth'):
            path = newest_whole(folder, folder, template)
            if path is not None:
                # A moved work_dir still names the old place.
                here = self.work_dir / Path(path).name
                return here if here.is_file() else Path(path)
        return None


def _is_metric(key: str, record: Mapping[str, Any]) -> bool:
    return key not in _NO_METRICS and isinstance(record[key], (int, float))


def read_scalars(work_dir: Path) -> List[Dict[str, Any]]:
    """The values that MMEngine logged in all sessions of a training, oldest first."""
    records = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue  # the last line of a run that was killed
    return records


def by_step(records: Sequence[Mapping[str, Any]], key: str) -> Dict[int, float]:
    """A logged value by iteration or epoch; the last one wins."""
    values = {r['step']: float(r[key]) for r in records if key in r}
    return dict(sorted(values.items()))


def _tests(work_dir: Path) -> Dict[str, float]:
    """Results of the newest test: TIME/TIME.json, also one folder deeper."""
    paths = [*work_dir.glob('*/*.json'), *work_dir.glob('*/*/*.json')]
    for path in sorted(paths, key=lambda p: p.stem, reverse=True):
        if path.stem != path.parent.name:
            continue
        try:
            values = json.loads(path.read_text())
        except ValueError:
            continue
        if isinstance(values, dict):
            return {k: float(v) for k, v in values.items() if _is_metric(k, values)}
    return {}


def read_run(work_dir: Path, name: Optional[str] = None) -> Run:
    """Read a work_dir.

    Args:
        work_dir: The folder that ``tools/train.py`` or ``test.py`` wrote.
        name: Its name in figures; by default that of the folder.

    Raises:
        UserError: If it is no work_dir.
    """
    if not work_dir.is_dir():
        kind = 'is a file, not a folder' if work_dir.exists() else 'does not exist'
        raise UserError(f'work_dir {work_dir} {kind}')
    scalars, tests = read_scalars(work_dir), _tests(work_dir)
    configs = sorted(work_dir.glob('*/vis_data/config.py'))
    if not (scalars or tests or configs):
        raise UserError(
            f'{work_dir} is no work_dir: it has no TIME/vis_data; '
            'tools/train.py CONFIG --work-dir DIR makes one'
        )
    name = name or Path(os.path.abspath(work_dir)).name
    return Run(name, work_dir, configs[-1] if configs else None, scalars, tests)


def read_runs(work_dirs: Sequence[Path]) -> List[Run]:
    """Read several work_dirs; equal folder names are extended by their parents.

    Raises:
        UserError: If one is no work_dir, or the same as another.
    """
    real = [path.resolve() for path in work_dirs]
    for path in real:
        if real.count(path) > 1:
            raise UserError(f'{path} is named more than once')
    # Links keep their names.
    paths = [Path(os.path.abspath(path)) for path in work_dirs]
    names = [path.name for path in paths]
    return [
        read_run(
            given,
            f'{path.parent.name}/{path.name}' if names.count(path.name) > 1 else None,
        )
        for given, path in zip(work_dirs, paths)
    ]


# --- curves -------------------------------------------------------------------


def smooth(values: Sequence[float], window: int = 9) -> np.ndarray:
    """Mean over a centred window that narrows towards both ends."""
    series = np.asarray(values, dtype=float)
    half = window // 2
    return np.array(
        [
            series[max(i - reach, 0) : i + reach + 1].mean()
            for i in range(len(series))
            for reach in [min(half, i, len(series) - 1 - i)]
        ]
    )


def curve_keys(runs: Sequence[Run]) -> List[str]:
    """Names of the curves to draw: the loss and the main metrics.

    A run without any of the usual metrics contributes its first one.
    """
    keys: Dict[str, None] = {}
    if any('loss' in record for run in runs for record in run.scalars):
        keys['loss'] = None
    for run in runs:
        found = run.validations
        keys.update(dict.fromkeys([k for k in _MAIN if k in found] or [*found][:1]))
    return [*keys]


def curves_table(runs: Sequence[Run], keys: Sequence[str]) -> List[Tuple[Any, ...]]:
    """Rows of all curves, as logged."""
    return [
        (run.name, key, step, value)
        for run in runs
        for key in keys
        for step, value in by_step(run.scalars, key).items()
    ]


def draw_curves(runs: Sequence[Run], keys: Sequence[str], columns: int = 3) -> Any:
    """Draw curves of several runs, one panel per scalar.

    Training values are drawn pale, with a mean over nine entries on top.

    Args:
        runs: The runs.
        keys: Names of scalars, like 'loss'.
        columns: Panels in a row at most. Defaults to 3.
    """
    columns = min(columns, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = plots.add_figure(rows, columns, (4.6 * columns, 3.4 * rows))
    for ax in axes.flat[len(keys) :]:
        ax.axis('off')
    for ax, key in zip(axes.flat, keys):
        trained = False
        for i, run in enumerate(runs):
            values = by_step(run.scalars, key)
            if not values:
                continue
            style = dict(plots.line_style(i), label=run.name)
            steps, heights = [*values], [*values.values()]
            if key not in run.validations:
                trained = True
                ax.plot(steps, heights, color=style['color'], alpha=0.25, linewidth=0.8)
                heights = list(smooth(heights))
                # Markers tell lines apart, a few are enough.
                style['markevery'] = max(len(steps) // 8, 1)
            ax.plot(steps, heights, **style)
        ax.set_title(key)
        ax.set_xlabel('iteration' if trained else 'epoch')
        plots.whole_numbers(ax.xaxis)
        if ax.lines:
            plots.widen(ax)
            ax.legend(frameon=False, fontsize=8)
    return figure
