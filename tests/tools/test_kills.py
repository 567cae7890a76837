# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Trainings killed at many moments, and a full disk."""

import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import pytest

from mmrla.engine.checkpoint_io import is_whole

from .conftest import TOOLS, call, run, same_weights

EPOCHS, STEPS = 40, 4  # a checkpoint each epoch
NO_VALIDATION = [
    f'{name}=None' for name in ('val_cfg', 'val_dataloader', 'val_evaluator')
]


def moments(size):
    """20 kills, drawn with a seed: how, and when.

    Args:
        size: Bytes of the smallest checkpoint.
    """
    rng = random.Random(7)
    drawn = [
        *(('start', rng.uniform(0, 2)) for _ in range(3)),  # seconds after the start
        # after so many steps, a part of one further
        *(('step', rng.uniform(0, 3.5 * STEPS)) for _ in range(8)),
        *(('write', rng.randrange(size // 10, size)) for _ in range(3)),
        # A checkpoint and the file that names it: for each two fsyncs, a replace.
        *(('fsync', rng.randrange(1, 9)) for _ in range(3)),
        *(('replace', rng.randrange(1, 5)) for _ in range(3)),
    ]
    rng.shuffle(drawn)
    return drawn


def steps_done(log):
    """The last step that a log has, counted from the beginning."""
    found = re.findall(r'Epoch\(train\)\s+\[(\d+)\]\[(\d)/4\]', log)
    return (int(found[-1][0]) - 1) * STEPS + int(found[-1][1]) if found else None


def be_mortal(how, number):
    """Make this process die while it writes a file.

    Args:
        how: 'write': in the call that writes this byte of a file; 'fsync' or
            'replace': in this one of the calls of that name.
        number: Which byte or call.
    """
    if how == 'write':
        # Python ignores the signal of the limit; by default it ends a process.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        return
    original, calls = getattr(os, how), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(os, how, dying)


def start(args, log, how, when):
    """Start tools/train.py; a fork of this process has imported all it needs.

    Returns:
        int: The process id.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        with log.open('wb', 0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = open(1, 'w', buffering=1, closefd=False)
        if how in ('write', 'fsync', 'replace'):
            be_mortal(how, when)
        call('train', *args)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def die(args, log, how, when):
    """Start a training and let it die."""
    pid = start(args, log, how, when)
    over, status = 0, 0
    begin, first = time.monotonic(), None
    try:
        while not over and time.monotonic() - begin < 200:
            over, status = os.waitpid(pid, os.WNOHANG)
            now = steps_done(log.read_text()) if log.exists() else None
            first = now if first is None else first
            if how == 'start' and time.monotonic() - begin > when:
                break
            if how == 'step' and now is not None and now - first >= int(when):
                time.sleep(0.1 * (when % 1))
                break
            time.sleep(0.002)
    finally:
        if not over:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), log.read_text()[-2000:]
    expected = signal.SIGXFSZ if how == 'write' else signal.SIGKILL
    assert os.WTERMSIG(status) == expected
    if how in ('write', 'fsync', 'replace'):
        assert over, 'it did not die by itself'


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(detector_config, tmp_path):
    """Each costs at most one checkpoint interval; the end is the same to the bit."""
    options = ['--cfg-options', f'train_cfg.max_epochs={EPOCHS}', *NO_VALIDATION]
    undisturbed, work_dir = tmp_path / 'undisturbed', tmp_path / 'killed'
    call('train', detector_config, '--work-dir', undisturbed, *options)
    end = undisturbed / f'epoch_{EPOCHS}.pth'

    args = detector_config, '--work-dir', work_dir, '--resume', 'auto', *options
    reached, resumed_at, moments_seen = 0, [], []
    # Checkpoints grow with the history of the losses in them.
    for number, (how, when) in enumerate(moments(end.stat().st_size * 3 // 4)):
        log = tmp_path / f'{number}.log'
        die(args, log, how, when)
        text = log.read_text()
        moments_seen.append((how, round(when, 2), steps_done(text)))
        # Nothing under a checkpoint's name is torn, whatever the moment.
        assert all(is_whole(str(path)) for path in work_dir.glob('*.pth'))
        if 'training starts from' not in text:
            continue  # it died before it came this far
        found = re.search(r'resumed epoch: \d+, iter: (\d+)', text)
        if found or steps_done(text) is not None:
            start = int(found.group(1)) if found else 0
            assert reached - STEPS <= start <= reached, moments_seen
            resumed_at.append(start)
        reached = max(reached, steps_done(text) or 0)
    print(*moments_seen, sep='\n')
    assert len(moments_seen) == 20
    assert 0 < reached < EPOCHS * STEPS, 'it was over before the last kill'
    assert len(set(resumed_at)) > 5

    call('train', *args)
    assert [p.name for p in work_dir.glob('*.pth')] == [end.name]
    assert same_weights(work_dir / end.name, end)
    assert not list(work_dir.glob('.*.tmp'))


# --- a full disk ---

# A file system of its own: SIZE FOLDER RESULTS PROGRAM [ARGS]. What is in it is
# gone with the shell, so it is copied.
SMALL_DISK = """
mount -t tmpfs -o "size=$0" tmpfs "$1" || exit 77
folder=$1 results=$2
shift 2
status=0
"$@" || status=$?
cp -a "$folder/." "$results"
exit $status
"""
UNSHARE = ['unshare', '--user', '--map-root-user', '--mount']


@pytest.mark.slow
def test_full_disk(trained, detector_config, tmp_path):
    disk, results = tmp_path / 'disk', tmp_path / 'results'
    disk.mkdir()
    results.mkdir()
    size = (trained / 'epoch_2.pth').stat().st_size
    # Room for one checkpoint and a half.
    command = [*UNSHARE, 'sh', '-c', SMALL_DISK, size * 3 // 2, disk, results]
    if shutil.which('unshare') is None or run(*command, 'true').returncode:
        pytest.skip('a file system may not be mounted here')
    train = sys.executable, TOOLS / 'train.py', detector_config, '--work-dir', disk
    options = 'train_cfg.max_epochs=4', *NO_VALIDATION
    done = run(*command, *train, '--cfg-options', *options)
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if 'rror' in line]
    assert len(errors) == 1, done.stderr
    assert re.search(
        r'error: cannot write .*epoch_2\.pth: No space left on device; the '
        r'checkpoints before it are whole: make room, then go on with --resume$',
        errors[0],
    )
    assert [path.name for path in results.glob('*.pth')] == ['epoch_1.pth']
    assert is_whole(str(results / 'epoch_1.pth'))
    assert Path((results / 'last_checkpoint').read_text()).name == 'epoch_1.pth'
    assert not list(results.glob('.*.tmp'))

    # With room again, it goes on.
    os.rename(results, tmp_path / 'room')
    call('train', detector_config, '--work-dir', tmp_path / 'room', '--resume')
    assert [p.name for p in (tmp_path / 'room').glob('*.pth')] == ['epoch_2.pth']
    assert same_weights(tmp_path / 'room/epoch_2.pth', trained / 'epoch_2.pth')
