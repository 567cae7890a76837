# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Run tools in this process, or as programs."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ..conftest import REPO, load_tool

TOOLS = REPO / 'tools'


def subclasses(cls):
    """A class and all that inherit from it."""
    return [cls, *(sub for child in cls.__subclasses__() for sub in subclasses(child))]


@contextmanager
def isolated():
    """Run with empty global registries of MMEngine, and restore them."""
    from mmengine.runner.checkpoint import CheckpointLoader
    from mmengine.utils import ManagerMixin

    instances = {m: dict(m._instance_dict) for m in subclasses(ManagerMixin)}
    for manager in instances:
        manager._instance_dict.clear()
    schemes = CheckpointLoader._schemes.copy()
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        for manager in subclasses(ManagerMixin):
            manager._instance_dict.clear()
            manager._instance_dict.update(instances.get(manager, {}))
        CheckpointLoader._schemes = schemes
        torch.set_num_threads(threads)


def call(name, *args, folder='tools'):
    """Call the ``main`` of a tool, or of a program in demo/, in this process."""
    with isolated():
        load_tool(name, folder).main([str(arg) for arg in args])


def environment(**extra):
    """The environment of a program: this Python, this clone, no debugging."""
    env = {**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(REPO), **extra}
    env.setdefault('OMP_NUM_THREADS', '1')
    env.pop('MMRLA_DEBUG', None)
    return env


def run(*command, timeout=240, env=None, cwd=None):
    """Run a program to its end."""
    return subprocess.run(
        [str(part) for part in command],
        env=env or environment(),
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
    )


def error_line(capsys, name, *args):
    """Call a tool that must fail; return its exit status and line of error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(name, *args)
    lines = capsys.readouterr().err.strip().splitlines()
    # mmengine's warnings may come before it.
    assert sum('error: ' in line for line in lines) == 1, lines
    assert 'error: ' in lines[-1]
    assert not any('Traceback' in line for line in lines)
    return ended.value.code, lines[-1]


def metrics(work_dir):
    """The metrics of the last test in a work_dir, without times."""
    newest = sorted(Path(work_dir).glob('*/*.json'))[-1]
    values = json.loads(newest.read_text())
    return {k: v for k, v in values.items() if not k.endswith('time')}


def weights(path):
    """The state_dict in a checkpoint of our own."""
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def same_weights(one, other):
    """Whether two checkpoints hold bitwise the same weights."""
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) for name in one
    )


@pytest.fixture(scope='session')
def trained(detector_config, tmp_path_factory):
    """The work_dir of a detector trained for two epochs, in this process."""
    work_dir = tmp_path_factory.mktemp('trained')
    call('train', detector_config, '--work-dir', work_dir)
    return work_dir
