# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""setup_venv.sh, with a stand-in for Python that records its calls."""

import fcntl
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# pip writes a mark, or fails; the import test asks for the mark.
PYTHON = """#!/bin/bash
[[ $1 == -m ]] && echo "$2 $3" >>"{folder}/calls"
case "$*" in
    *ensurepip*) echo {version} ;;
    *venv*/.venv* | "-m venv .venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *"pip cache dir"*) echo {folder}/cache ;;
    *"pip install"*) [[ ! -e {folder}/no_network ]] && touch "${{0%/bin/*}}/mark" ;;
    -I*) [[ -e ${{0%/bin/*}}/mark ]] || {{ echo 'ImportError: x' >&2; exit 1; }} ;;
esac
"""


class Clone:
    """A clone with the script, and a Python for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / 'a clone'
        for name in (
            'requirements',
            'requirements.txt',
            'setup.py',
            'mmrla/version.py',
        ):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, target)
        self.venv = self.folder / '.venv'
        self.log = folder / 'calls'
        self.python = folder / 'python'
        self.write_python('3.11')

    def write_python(self, version: str) -> None:
        text = PYTHON.format(folder=self.python.parent, version=version)
        self.python.write_text(text)
        self.python.chmod(0o755)

    def start(self, *args: str, python: str = '') -> subprocess.Popen:
        script = self.folder / 'requirements/setup_venv.sh'
        return subprocess.Popen(
            ['bash', str(script), *args],
            env={'PATH': '/usr/bin:/bin', 'PYTHON': python or str(self.python)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, status: int = 0, python: str = '') -> str:
        """Return stderr; ``calls`` has the calls of Python."""
        self.log.write_text('')
        process = self.start(*args, python=python)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        return errors.strip()

    @property
    def calls(self) -> list:
        lines = self.log.read_text().splitlines()
        return [' '.join(line.split()[:2]) for line in lines]


INSTALLS = ['pip install', 'pip cache', *['pip install'] * 4]


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def test_made_once_and_updated_when_requirements_change(clone):
    clone.run()
    assert clone.calls == ['venv .venv', *INSTALLS]
    clone.run()
    assert clone.calls == []
    with (clone.folder / 'requirements/tests.txt').open('a') as file:
        file.write('one-more\n')
    clone.run()
    assert clone.calls == INSTALLS


@pytest.mark.parametrize('half', [True, False], ids=['half-made', 'broken'])
def test_broken_environment_is_made_again(clone, half):
    clone.run()
    (clone.venv / 'mark').unlink()
    if half:
        (clone.venv / 'stamp').unlink()
        (clone.venv / 'bin/python').unlink()
    clone.run()
    assert clone.calls == ['venv .venv', *INSTALLS]
    clone.run()
    assert clone.calls == []


def test_failed_update_keeps_working_environment(clone, tmp_path):
    clone.run()
    (clone.venv / 'stamp').write_text('of other requirements')
    (tmp_path / 'no_network').touch()
    error = clone.run(status=1).splitlines()[-1]
    assert error.startswith('error: the update of .venv failed')
    assert (clone.venv / 'mark').exists()
    (clone.venv / 'mark').unlink()
    assert (
        clone.run(status=1).splitlines()[-1].startswith('error: .venv is not complete')
    )
    assert not (clone.venv / 'stamp').exists()
    (tmp_path / 'no_network').unlink()
    clone.run()
    assert (clone.venv / 'stamp').exists()


def test_stacks_and_pythons(clone):
    clone.run('modern')
    assert clone.calls[0] == 'venv .venv-modern'
    clone.write_python('3.10')
    assert 'no Python 3.11 or 3.12 with venv' in clone.run('modern', status=1)
    assert (clone.folder / '.venv-modern/stamp').exists()
    clone.run()
    assert clone.calls[0] == 'venv .venv'
    assert 'PYTHON=/none is no Python' in clone.run(python='/none', status=1)
    assert (clone.venv / 'stamp').exists()


@pytest.mark.parametrize('stack', ['nonesuch', '../x', 'default modern', '.*'])
def test_unknown_stack(clone, stack):
    error = clone.run(stack, status=1)
    assert error.startswith(f'error: STACK={stack} is not known')
    assert 'default, modern, onedl' in error


def test_concurrent_runs_wait(clone):
    clone.log.write_text('')
    with (clone.folder / '.venv.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = clone.start()
        assert process.stdout
        assert 'waiting' in process.stdout.readline()
        time.sleep(0.2)
        assert not clone.log.read_text()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (clone.venv / 'stamp').exists()
