# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""One line in a terminal, few lines in a log."""

from typing import Any

import pytest

from mmrla.analysis.progress import Progress


@pytest.mark.parametrize('total, lines', [(72, 10), (3, 3), (1, 1), (1000, 10)])
def test_a_log_gets_a_line_for_each_tenth(capsys: Any, total: int, lines: int) -> None:
    assert list(Progress.over(range(total), total, 'images')) == list(range(total))
    written = capsys.readouterr().err
    assert '\r' not in written
    assert len(written.splitlines()) == lines
    assert written.endswith(f'{total} of {total} images\n')


def test_a_terminal_gets_one_line(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('sys.stderr.isatty', lambda: True, raising=False)
    progress = Progress(72, 'images')
    for _ in range(72):
        progress.update()
    written = capsys.readouterr().err
    assert written.count('\n') == 1
    assert written.count('\r') == 72
