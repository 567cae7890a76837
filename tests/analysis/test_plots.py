# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Figures are legible in grey and reproducible byte for byte."""

import csv
import itertools
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import pytest

pytest.importorskip('matplotlib')

from matplotlib.colors import to_rgb

from mmrla.analysis import plots


def _lightness(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_lines_differ_in_grey() -> None:
    styles = [plots.line_style(i) for i in range(4)]
    shapes = {(str(s['linestyle']), s['marker']) for s in styles}
    assert len(shapes) == 4
    for one, other in itertools.combinations(styles, 2):
        differs = abs(_lightness(one['color']) - _lightness(other['color'])) > 0.1
        assert differs or one['linestyle'] != other['linestyle']
    # Markers tell the others, as many as there are colours.
    assert len({plots.line_style(i)['marker'] for i in range(7)}) == 7
    assert max(_lightness(plots.line_style(i)['color']) for i in range(7)) < 0.75


def test_bars_differ_in_colour_or_hatch() -> None:
    def look(style: Dict[str, Any]) -> Tuple[str, str]:
        return style['color'], style['hatch']

    assert len({look(plots.bar_style(i)) for i in range(7)}) == 7


def test_save(tmp_path: Path) -> None:
    rows = [('a', 1, 0.1234567), ('b, "c"', 2, float('nan'))]
    contents = []
    for name in ('one', 'two'):
        figure, axes = plots.add_figure(1, 2)
        assert axes.shape == (1, 2)
        axes[0, 0].plot([1, 2], label='line')
        axes[0, 0].legend()
        plots.whole_numbers(axes[0, 1].xaxis)
        files = plots.save(
            figure, tmp_path / name / 'v1.2', ('name', 'n', 'value'), rows
        )
        # A dot in the name is no suffix.
        assert [f.name for f in files] == ['v1.2.png', 'v1.2.svg', 'v1.2.csv']
        contents.append([f.read_bytes() for f in files])
    assert contents[0] == contents[1]
    with files[2].open(newline='') as file:
        read = list(csv.reader(file))
    assert read == [
        ['name', 'n', 'value'],
        ['a', '1', '0.123457'],
        ['b, "c"', '2', 'nan'],
    ]


def _lab(colours: Any) -> np.ndarray:
    """CIE L*a*b* of RGB, in which distance is what the eye sees."""
    cv2 = pytest.importorskip('cv2')
    values = np.array(colours, np.float32)[None] / 255
    return cv2.cvtColor(values, cv2.COLOR_RGB2LAB)[0]


def test_classes_have_distinct_colours() -> None:
    for one, other in itertools.combinations(_lab(plots.class_colours(10)), 2):
        assert np.linalg.norm(one - other) > 55
    # COCO's first two are reds.
    assert np.linalg.norm(np.subtract(*_lab([(220, 20, 60), (119, 11, 32)]))) < 40
    assert plots.class_colours(3) == plots.class_colours(10)[:3]
    for count in (11, 20, 40):
        assert len(set(plots.class_colours(count))) == count
    assert all(0 <= value <= 255 for c in plots.class_colours(40) for value in c)


def test_palette_of_other_length_is_replaced() -> None:
    coco = [(i, i, i) for i in range(80)]
    meta = plots.with_palette(dict(classes=('a', 'b', 'c'), palette=coco))
    assert meta['palette'] == plots.class_colours(3)
    assert plots.with_palette(dict(classes=('a',)))['palette'] == [(240, 15, 70)]
    own = dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)])
    assert plots.with_palette(own) == own


@pytest.mark.parametrize(
    'values, low, high',
    [((0.530, 0.532), 0.47, 0.59), ((0.2, 0.7), 0.17, 0.73), ((0, 0), -0.55, 0.55)],
)
def test_widen_keeps_small_differences_small(
    values: Tuple[float, float], low: float, high: float
) -> None:
    _, axes = plots.add_figure()
    ax = axes[0, 0]
    for value in values:
        ax.plot([12], [value], **plots.line_style(0))
    plots.widen(ax)
    assert ax.get_ylim() == pytest.approx((low, high), abs=0.01)
