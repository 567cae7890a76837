# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Figures read in grey, and are three files that do not change by themselves."""

import csv
import itertools
from pathlib import Path
from typing import Any, Dict, Tuple

import pytest

pytest.importorskip('matplotlib')

from matplotlib.colors import to_rgb

from mmrla.analysis import plots


def _lightness(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_lines_can_be_told_apart_in_grey() -> None:
    styles = [plots.line_style(i) for i in range(4)]
    shapes = {(str(s['linestyle']), s['marker']) for s in styles}
    assert len(shapes) == 4
    for one, other in itertools.combinations(styles, 2):
        differs = abs(_lightness(one['color']) - _lightness(other['color'])) > 0.1
        assert differs or one['linestyle'] != other['linestyle']
    # Markers tell the others, as many as there are colours.
    assert len({plots.line_style(i)['marker'] for i in range(7)}) == 7
    assert max(_lightness(plots.line_style(i)['color']) for i in range(7)) < 0.75


def test_bars_of_one_shade_have_other_hatches() -> None:
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
