# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A long training neither grows nor leaves files open.

MMRLA_SOAK_MINUTES is how long the demo's training is watched, 30 by default.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List, NamedTuple

import pytest

from mmrla.datasets.digit_scenes import DigitSceneParams, ensure_digit_scenes

from .conftest import REPO, TOOLS, environment

MINUTES = float(os.environ.get('MMRLA_SOAK_MINUTES', 30))
CONFIG = 'configs/demo/mask-rcnn_rla-r18-thin_fpn_1xb8-6e_digits.py'


class Sample(NamedTuple):
    """What a process holds at a moment."""

    seconds: float
    # MiB, of its children too; pages that they share counted once. Without those of
    # files, which are shared with other processes that come and go.
    memory: float
    files: int  # open ones, without those of children, which come and go


def tree(pid: int) -> List[int]:
    """A process and its children that still run."""
    try:
        text = Path(f'/proc/{pid}/task/{pid}/children').read_text()
    except OSError:
        return []
    return [pid, *(p for child in text.split() for p in tree(int(child)))]


def sample(pid: int, seconds: float) -> Sample:
    """Measure a process and its children."""
    memory = 0
    for member in tree(pid):
        try:
            rollup = Path(f'/proc/{member}/smaps_rollup').read_text()
        except OSError:  # it is over
            continue
        memory += sum(
            int(line.split()[1])
            for line in rollup.splitlines()
            if line.startswith(('Pss_Anon:', 'Pss_Shmem:'))
        )
    return Sample(seconds, memory / 1024, len(os.listdir(f'/proc/{pid}/fd')))


def watch(process: Any, seconds: float, interval: float) -> List[Sample]:
    """Sample a process until it ends or time is up."""
    start = time.monotonic()
    samples: List[Sample] = []
    while process.poll() is None and time.monotonic() - start < seconds:
        samples.append(sample(process.pid, time.monotonic() - start))
        time.sleep(interval)
    return samples


def thirds(samples: List[Sample]) -> List[List[Sample]]:
    """Warm-up, middle and end."""
    length = len(samples) // 3
    assert length >= 5, f'{len(samples)} samples are too few'
    return [samples[:length], samples[length : 2 * length], samples[2 * length :]]


def growth(samples: List[Sample], what: str) -> float:
    """Growth of the median from the middle third to the last: 0.02 is 2%."""
    _, middle, end = (
        statistics.median(getattr(s, what) for s in part) for part in thirds(samples)
    )
    return end / middle - 1


@pytest.mark.slow
@pytest.mark.timeout(60 * MINUTES + 600)
def test_demo_training_does_not_grow(tmp_path):
    data = tmp_path / 'digits'
    # Few scenes: more epochs, checkpoints and validations in the time.
    ensure_digit_scenes(data, DigitSceneParams(num_train=80, num_val=16))
    loaders = 'train_dataloader', 'val_dataloader', 'test_dataloader'
    options = [
        *(f'{loader}.dataset.data_root={data}' for loader in loaders),
        f'val_evaluator.ann_file={data}/annotations/instances_val.json',
        'train_cfg.max_epochs=100000',
        # A worker that comes and goes with each epoch.
        'train_dataloader.num_workers=1',
    ]
    command = [sys.executable, TOOLS / 'train.py', CONFIG, '--work-dir', tmp_path / 'w']
    output = tmp_path / 'output'
    with output.open('w') as file:
        process = subprocess.Popen(
            [str(part) for part in (*command, '--cfg-options', *options)],
            env=environment(),
            cwd=REPO,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        samples = watch(process, 60 * MINUTES, 1)
        assert process.poll() is None, output.read_text()[-2000:]
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its worker too
        process.wait()
    epochs = output.read_text().count('Saving checkpoint at')
    for name, part in zip(('warm-up', 'middle', 'end'), thirds(samples)):
        memory = [s.memory for s in part]
        files = [s.files for s in part]
        print(
            f'{name}: {statistics.median(memory):.0f} MiB, {max(memory):.0f} at most; '
            f'{statistics.median(files):.0f} files, {max(files)} at most'
        )
    print(f'{MINUTES:g} minutes, {epochs} epochs:', end=' ')
    print(f'memory {growth(samples, "memory"):+.2%}', end=', ')
    print(f'files {growth(samples, "files"):+.2%}')
    assert growth(samples, 'memory') < 0.02
    assert growth(samples, 'files') <= 0
