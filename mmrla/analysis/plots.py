# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""How this package's figures look and are saved.

Lines differ in colour (Okabe and Ito's palette, safe for the colour-blind), in
lightness, in dashes and in markers, so that they can be told apart in grey. A
figure is three files of one name: PNG, SVG, and CSV with the numbers in it.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Sequence, Tuple

from ..errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    'CMAP',
    'GREYS',
    'add_figure',
    'bar_style',
    'cells',
    'line_style',
    'log_scale',
    'save',
    'whole_numbers',
]

#: Of maps: its lightness rises evenly, so that it reads in grey.
CMAP = 'cividis'
#: Of matrices: white is zero.
GREYS = 'Greys'

_COLOURS = ('#000000', '#D55E00', '#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9')
_DASHES: Tuple[Any, ...] = ('-', (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
_MARKERS = 'os^DvPX'
_HATCHES = ('', '///', '...', 'xxx', '\\\\\\', '+++', 'ooo')


def line_style(index: int) -> Dict[str, Any]:
    """How line number ``index`` (from 0) is drawn: arguments of ``Axes.plot``."""
    return dict(
        color=_COLOURS[index % len(_COLOURS)],
        linestyle=_DASHES[index % len(_DASHES)],
        marker=_MARKERS[index % len(_MARKERS)],
        linewidth=1.6,
        markersize=5,
    )


def bar_style(index: int) -> Dict[str, Any]:
    """How bars of kind ``index`` (from 0) are drawn: arguments of ``Axes.bar``."""
    shade = 0.95 - 0.8 * (index % 4) / 3
    return dict(
        color=str(round(shade, 3)),
        edgecolor='0.25',
        hatch=_HATCHES[index % len(_HATCHES)],
    )


def add_figure(
    rows: int = 1, columns: int = 1, size: Tuple[float, float] = (6, 4), **kwargs: Any
) -> Tuple[Figure, Any]:
    """A figure and its axes.

    Args:
        rows: Rows of axes. Defaults to 1.
        columns: Columns of axes. Defaults to 1.
        size: Width and height in inches.
        **kwargs: Arguments of ``Figure.subplots``.

    Returns:
        The figure and its axes, an array of shape (rows, columns).

    Raises:
        UserError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'mmrla[look]'") from None
    # Without pyplot: no display, and nothing to close.
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    for ax in axes.flat:
        ax.spines[['top', 'right']].set_visible(False)
        ax.grid(color='0.88', linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def whole_numbers(axis: Any) -> None:
    """Ticks at integers only.

    Args:
        axis: An x or y axis of matplotlib.
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(
        MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def log_scale(axis: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2, 5 and their decades.

    Args:
        axis: An x or y axis of matplotlib.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.set_minor_formatter(NullFormatter())


def cells(row: Sequence[Any]) -> List[str]:
    """A row of a CSV file; floats with six digits."""
    return [f'{v:.6g}' if isinstance(v, float) else str(v) for v in row]


def save(
    figure: Figure, stem: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]
) -> List[Path]:
    """Write STEM.png, STEM.svg and STEM.csv.

    Args:
        figure: The figure.
        stem: Path of the files without suffix; its folder is made.
        head: Names of the columns.
        rows: The numbers in the figure.

    Returns:
        The three files. The same figure gives the same bytes.
    """
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f'{stem.name}.{kind}') for kind in ('png', 'svg', 'csv')]
    with matplotlib.rc_context({'svg.hashsalt': 'mmrla', 'svg.fonttype': 'none'}):
        figure.savefig(files[0], dpi=150)
        figure.savefig(files[1], metadata={'Date': None})
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    writer.writerow(head)
    writer.writerows(cells(row) for row in rows)
    files[2].write_text(table.getvalue(), encoding='utf-8')
    return files
