# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Style and files of this package's figures.

Lines differ in colour (Okabe and Ito's palette, safe for colour-blind readers),
lightness, dashes and markers, so they stay distinct in grey. Each figure is saved as
PNG, SVG, and CSV with its numbers. Objects in pictures have one colour per class.
"""

from __future__ import annotations

import colorsys
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    'CMAP',
    'GREYS',
    'add_figure',
    'bar_style',
    'cells',
    'class_colours',
    'line_style',
    'log_scale',
    'save',
    'whole_numbers',
    'widen',
    'with_palette',
]

#: For maps: lightness rises evenly, so it works in grey.
CMAP = 'cividis'
#: For matrices: white is zero.
GREYS = 'Greys'

_COLOURS = ('#000000', '#D55E00', '#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9')
_DASHES: Tuple[Any, ...] = ('-', (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
_MARKERS = 'os^DvPX'
_HATCHES = ('', '///', '...', 'xxx', '\\\\\\', '+++', 'ooo')
#: For classes, RGB: red, blue, green, orange, purple, cyan, pink, brown, navy, yellow.
#: Distances in CIE L*a*b* are at least 58.
_CLASS_COLOURS = (
    *((240, 15, 70), (30, 150, 230), (20, 150, 40), (255, 140, 0), (150, 35, 220)),
    *((5, 215, 205), (225, 120, 185), (125, 85, 45), (25, 15, 85), (215, 220, 5)),
)


def class_colours(count: int) -> List[Tuple[int, int, int]]:
    """A colour (RGB, 0 to 255) for each of ``count`` classes.

    Ten are clearly distinct; for more classes hues are evenly spaced.
    """
    if count <= len(_CLASS_COLOURS):
        return list(_CLASS_COLOURS[:count])
    colours = []
    for i in range(count):
        # Neighbours in hue differ in lightness.
        rgb = colorsys.hls_to_rgb(i / count, (0.35, 0.5, 0.65)[i % 3], 0.8)
        red, green, blue = (round(255 * value) for value in rgb)
        colours.append((red, green, blue))
    return colours


def with_palette(meta: Mapping[str, Any]) -> Dict[str, Any]:
    """A data set's ``metainfo`` with a palette for upstream's visualizers.

    A palette with one colour per class is kept. ``CocoDataset`` has COCO's 80 colours
    whatever its classes; the first two are both red.
    """
    count = len(meta.get('classes') or ())
    if len(meta.get('palette') or ()) == count:
        return dict(meta)
    return dict(meta, palette=class_colours(count))


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
    """Put ticks at integers only.

    Args:
        axis: An x or y axis of matplotlib.
    """
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(
        MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def log_scale(axis: Any) -> None:
    """Make an axis logarithmic, with a few plain numbers for any span.

    Args:
        axis: An x or y axis of matplotlib.
    """
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
    )

    class Ticks(LogLocator):
        """The coarsest ticks of which at least four are visible."""

        def tick_values(self, vmin: Any, vmax: Any) -> Any:
            for locator in (
                LogLocator(),
                LogLocator(subs=(1, 2, 5)),
                LogLocator(subs=range(1, 10)),
                MaxNLocator(4, steps=[1, 2, 5, 10]),
            ):
                ticks = np.asarray(locator.tick_values(vmin, vmax))
                ticks = ticks[(ticks >= vmin) & (ticks <= vmax)]
                if len(ticks) >= 4:
                    break
            return ticks

    axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
    axis.set_major_locator(Ticks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def widen(ax: Any, share: float = 0.2) -> None:
    """Make a y axis span at least a share of its largest value.

    Matplotlib fills the height with any difference, so 0.530 and 0.532 would look far
    apart.

    Args:
        ax: Axes of matplotlib, drawn.
        share: The share. Defaults to 0.2.
    """
    low, high = ax.dataLim.intervaly
    least = share * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        middle = (low + high) / 2
        ax.set_ylim(middle - 0.55 * least, middle + 0.55 * least)


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
