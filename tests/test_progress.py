# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""One line in a terminal, few lines in a log, and the time left."""

import re
from typing import Any, Iterator, List

import pytest

from mmrla import progress
from mmrla.progress import Progress


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """A fake clock: the last entry is the time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[-1])
    return now


def _work(total: int, each: float, now: List[float]) -> Iterator[int]:
    for i in range(total):
        now.append(now[-1] + each)
        yield i


@pytest.mark.parametrize(
    'total, each, lines',
    [(72, 1, 10), (3, 9, 3), (1, 1, 0), (1000, 1, 10), (900, 0.001, 0)],
)
def test_log_gets_a_line_per_tenth(
    seconds: List[float], capsys: Any, total: int, each: float, lines: int
) -> None:
    items = _work(total, each, seconds)
    assert list(Progress.over(items, total, 'images')) == list(range(total))
    written = capsys.readouterr().err
    assert '\r' not in written
    assert len(written.splitlines()) == lines
    if lines:
        assert written.endswith(f'{total} of {total} images\n')


def test_terminal_gets_one_line(
    seconds: List[float], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
    list(Progress.over(_work(1000, 0.01, seconds), 1000, 'images'))
    written = capsys.readouterr().err
    assert written.count('\n') == 1
    assert 90 <= written.count('\r') <= 110  # ten each second, of 10 s


def test_time_left(seconds: List[float], capsys: Any) -> None:
    list(Progress.over(_work(100, 6, seconds), 100, 'images'))
    left = re.findall(
        r'(\d+) of 100 images, (\d+):(\d\d) left', capsys.readouterr().err
    )
    assert len(left) == 9
    for done, minutes, rest in left:
        assert 60 * int(minutes) + int(rest) == 6 * (100 - int(done))
