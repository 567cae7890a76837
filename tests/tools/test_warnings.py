# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A training prints no warning that comes from this package, in any stack."""

import re
import sys
from typing import List

import pytest

from .conftest import REPO, TOOLS, run

WARNING = re.compile(r'^(\S.*?):\d+: (?:\w+\.)*\w*Warning: .*$', re.MULTILINE)
OURS = [f'{REPO}/{folder}/' for folder in ('mmrla', 'tools', 'configs')]


def python(*command: object, **kwargs):
    """Run Python with all warnings shown, those that it hides by default too."""
    done = run(sys.executable, '-W', 'always', *command, **kwargs)
    assert done.returncode == 0, done.stderr
    return done


def warnings_of_ours(output: str) -> List[str]:
    """The warnings in an output that name a file of this repository."""
    found = WARNING.finditer(output)
    return [m.group() for m in found if m.group(1).startswith(tuple(OURS))]


@pytest.mark.parametrize('kind', ['detector', 'classifier'])
def test_training_and_resuming(kind, request, tmp_path) -> None:
    config = request.getfixturevalue(f'{kind}_config')
    command = [TOOLS / 'train.py', config, '--work-dir', tmp_path]
    for epochs in (1, 2):
        options = f'train_cfg.max_epochs={epochs}', 'train_cfg.val_interval=1'
        done = python(*command, '--resume', '--cfg-options', *options)
        assert warnings_of_ours(done.stdout + done.stderr) == []
        assert (tmp_path / f'epoch_{epochs}.pth').exists()
    assert 'resumed epoch: 1' in done.stdout + done.stderr
