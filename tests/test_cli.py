# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The command ``mmrla`` in a clone; test_package.py runs it from a wheel."""

import sys
from pathlib import Path

import pytest

from mmrla import cli


@pytest.fixture(autouse=True)
def _same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    monkeypatch.setattr(sys, 'path', list(sys.path))


def test_short_names_are_programs() -> None:
    found = cli.programs()
    assert {found[name].name for name in cli.SHORT.values()} == {
        f'{name}.py' for name in cli.SHORT.values()
    }
    assert {'dist_train', 'get_flops', 'detect_video'} <= set(found)
    # Modules that programs import are none.
    assert not {'inputs', 'pictures'} & set(found)


def test_arguments_and_status_pass_through(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(['train', str(tmp_path / 'none.py')])
    assert ended.value.code == 2
    (line,) = (x for x in capsys.readouterr().err.splitlines() if 'error' in x)
    assert line.startswith('train.py: error: ')
    assert 'none.py' in line


def test_demos_import_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(['detect', '--help'])
    assert ended.value.code == 0
    assert 'usage: detect_image.py' in capsys.readouterr().out


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(['trian'])
    assert ended.value.code == 2
    assert 'train' in capsys.readouterr().err


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(['--help'])
    text = capsys.readouterr().out
    assert all(name in text for name in (*cli.SHORT, *cli.programs()))
