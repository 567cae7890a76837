# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Nothing unsafe in the code, no network unless it is asked for."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ['mmrla', 'tools', 'demo', 'setup.py']
BANDIT = [sys.executable, '-m', 'bandit', '-q', '-c', 'pyproject.toml', '-r']


def bandit(*parts: str) -> subprocess.CompletedProcess:
    pytest.importorskip('bandit')
    return subprocess.run([*BANDIT, *parts], cwd=ROOT, capture_output=True, text=True)


def test_bandit_finds_nothing() -> None:
    """Exceptions are in pyproject.toml, or a comment says why."""
    done = bandit(*PARTS)
    assert done.returncode == 0, done.stdout + done.stderr


UNSAFE = {
    'B301': 'import pickle\npickle.load(open("x", "rb"))',
    'B614': 'import torch\ntorch.load("x")',
    'B307': 'eval(input())',
    'B102': 'exec(input())',
    'B602': 'import subprocess\nsubprocess.run(input(), shell=True)',
    'B506': 'import yaml\nyaml.load(input())',
}


def test_bandit_looks_for_what_matters(tmp_path: Path) -> None:
    """No setting of ours hides these."""
    for number, code in UNSAFE.items():
        (tmp_path / f'{number}.py').write_text(code + '\n')
    done = bandit(str(tmp_path))
    assert done.returncode == 1
    assert [n for n in UNSAFE if f'[{n}:' not in done.stdout] == []


def test_tests_may_not_use_the_network(no_network: list) -> None:
    """The guard that is around every test."""
    with pytest.raises(OSError, match='no test may'):
        socket.create_connection(('192.0.2.1', 80), timeout=1)
    with pytest.raises(OSError, match='no test may'):
        socket.getaddrinfo('example.org', 80)
    assert len(no_network) == 2
    no_network.clear()


@pytest.mark.slow
def test_a_training_needs_no_network(classifier_config: Path, tmp_path: Path) -> None:
    """In a namespace without any, loopback down too."""
    unshare = ['unshare', '--user', '--map-root-user', '--net']
    allowed = shutil.which('unshare') and not subprocess.call([*unshare, 'true'])
    if not allowed:
        pytest.skip('no network namespace may be made here')
    command = [sys.executable, ROOT / 'tools/train.py', classifier_config]
    done = subprocess.run(
        [*unshare, *map(str, command), '--work-dir', str(tmp_path)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob('epoch_1.pth'))
