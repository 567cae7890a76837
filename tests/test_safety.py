# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""No unsafe code, and no network for a training."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ['mmrla', 'tools', 'demo', 'setup.py']
BANDIT = [sys.executable, '-m', 'bandit', '-q', '-c', 'pyproject.toml', '-r']


def test_bandit_finds_nothing() -> None:
    """Exceptions are in pyproject.toml, or a comment says why."""
    pytest.importorskip('bandit')
    command = [*BANDIT, *PARTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_training_without_network(classifier_config: Path, tmp_path: Path) -> None:
    """In a network namespace without any interface."""
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
