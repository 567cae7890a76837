# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The demo: what it makes, what it uses again, how it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'demo'))

import run_demo  # noqa: E402

TIME = '20240101_000000'


class FakeTools:
    """In the place of the tools: writes what the demo reads of theirs."""

    def __init__(self):
        self.calls = []
        self.ap = 0.9

    def __call__(self, name, arguments, log, lock, poll=None, processes=1):
        self.calls.append(name)
        options = dict(zip(arguments[1:], arguments[2:]))
        work_dir = Path(options['--work-dir'])
        folder = work_dir / TIME
        folder.mkdir(exist_ok=True)
        if name == 'train.py':
            (folder / 'vis_data').mkdir(exist_ok=True)
            with (folder / 'vis_data' / 'scalars.json').open('a') as file:
                for step in range(1, 5):
                    file.write(json.dumps(dict(loss=1 / step, step=step)) + '\n')
                    poll()
                aps = {'coco/bbox_mAP': 0.5, 'coco/segm_mAP': 0.4, 'step': 2}
                file.write(json.dumps(aps) + '\n{"torn": ')
            (work_dir / 'epoch_2.pth').write_bytes(b'weights')
        else:
            log.write_text('INFO - Evaluating bbox...\n Average Precision (AP) = 1\n')
            aps = {'coco/bbox_mAP': self.ap, 'coco/segm_mAP': self.ap}
            (folder / f'{TIME}.json').write_text(json.dumps(aps))


@pytest.fixture
def tools(monkeypatch):
    fake = FakeTools()
    monkeypatch.setattr(run_demo, 'run_tool', fake)
    monkeypatch.setattr(run_demo, 'draw', lambda data_dir, work_dir: ['pictures'])
    # Its handler would stay after the test.
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    return fake


@pytest.fixture
def command(tmp_path):
    return [
        *('--work-dir', str(tmp_path / 'work')),
        *('--data-dir', str(tmp_path / 'data')),
        *('--epochs', '2', '--train-scenes', '16', '--val-scenes', '2'),
    ]


def test_a_second_run_uses_what_is_there(tools, command, capsys):
    run_demo.main(command)
    assert tools.calls == ['train.py', 'test.py']
    out = capsys.readouterr().out
    assert 'epoch 2/2   loss 0.250   box AP 0.500   mask AP 0.400' in out
    assert 'Boxes\n    Average Precision (AP) = 1' in out
    run_demo.main(command)
    assert tools.calls == ['train.py', 'test.py', 'test.py']
    assert 'finished and is used again' in capsys.readouterr().out


def test_an_interrupted_training_goes_on(tools, command, tmp_path):
    run_demo.main(command)
    (tmp_path / 'work' / 'epoch_2.pth').unlink()
    run_demo.main(command)
    assert tools.calls == ['train.py', 'test.py'] * 2
    assert not (tmp_path / 'work' / 'earlier').exists()


def test_an_altered_checkpoint_is_noticed(tools, command, tmp_path):
    run_demo.main(command)
    (tmp_path / 'work' / 'epoch_2.pth').write_bytes(b'weig')
    run_demo.main(command)
    assert tools.calls == ['train.py', 'test.py'] * 2


@pytest.mark.parametrize(
    'change', [['--fresh'], ['--epochs', '3'], ['--val-scenes', '3']]
)
def test_another_training_keeps_the_earlier_results(tools, command, tmp_path, change):
    run_demo.main(command)
    work_dir = tmp_path / 'work'
    weights = b'those of the first training'
    (work_dir / 'epoch_2.pth').write_bytes(weights)
    run_demo.main([*command, *change])
    assert tools.calls == ['train.py', 'test.py'] * 2
    (earlier,) = (work_dir / 'earlier').iterdir()
    assert (earlier / 'epoch_2.pth').read_bytes() == weights
    assert (work_dir / 'epoch_2.pth').read_bytes() == b'weights'


def fails(capsys, arguments):
    with pytest.raises(SystemExit) as info:
        run_demo.main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert 'Traceback' not in '\n'.join(lines)
    return info.value.code, lines[-1]


@pytest.mark.parametrize('option', ['--min-box-ap', '--min-mask-ap'])
def test_low_ap_is_an_error(tools, command, capsys, option):
    run_demo.main([*command, option, '0.9'])
    tools.ap = 0.5
    status, message = fails(capsys, [*command, option, '0.6'])
    assert status == 1
    assert f'{option.split("-")[3]} AP 0.500 is below 0.60' in message


def test_foreign_folders_are_left_alone(tools, command, capsys, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'thesis.txt').write_text('mine')
    status, message = fails(capsys, [*command, '--fresh'])
    assert status == 2
    assert 'holds other things' in message
    assert not tools.calls
    assert (tmp_path / 'work' / 'thesis.txt').read_text() == 'mine'


def test_two_runs_do_not_share_a_folder(tools, command, capsys, tmp_path):
    with run_demo.exclusive(tmp_path / 'work'):
        status, message = fails(capsys, command)
    assert status == 1
    assert 'another run is at work' in message
    run_demo.main(command)


@pytest.mark.parametrize(
    'options, message',
    [
        (['--epochs', '0'], 'at least 1'),
        (['--train-scenes', '0'], 'num_train is 0'),
        (['--work-dir', str(ROOT / 'README.md')], 'README.md'),
        (['--data-dir', str(ROOT / 'README.md')], 'is a file'),
    ],
)
def test_bad_options(tools, command, capsys, options, message):
    status, last = fails(capsys, [*command, *options])
    assert status in (1, 2)
    assert message in last
    assert not tools.calls


def test_a_failing_tool_is_an_error(tmp_path):
    with run_demo.exclusive(tmp_path) as lock:
        log = tmp_path / 'log'
        with pytest.raises(run_demo.UserError, match='does not exist') as info:
            run_demo.run_tool('train.py', ['none.py'], log, lock)
    assert info.value.status == 1
    assert f'{run_demo.shown(log)}' in str(info.value)
    assert 'none.py' in log.read_text()


def run(command):
    return subprocess.run(
        [sys.executable, str(ROOT / 'demo' / 'run_demo.py'), *command],
        capture_output=True,
        text=True,
        check=False,
    )


def test_from_nothing(tmp_path):
    """All of it, with the real tools, in a folder with a difficult name."""
    work_dir = tmp_path / 'a [work], dir'
    done = run(
        [
            *('--work-dir', str(work_dir), '--data-dir', str(work_dir) + ' data'),
            *('--epochs', '1', '--train-scenes', '8', '--val-scenes', '3'),
        ]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('Average Precision') == 2 * 6
    assert done.stdout.count('Average Recall') == 2 * 6
    for name in ['epoch_1.pth', 'train.log', 'test/predictions.pkl']:
        assert (work_dir / name).stat().st_size
    pictures = [work_dir / 'curves.png', *(work_dir / 'predictions').iterdir()]
    assert len(pictures) == 1 + 1 + 3
    for path in pictures:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 300
        assert image.std() > 10
    assert 'epoch_1.pth' in done.stdout
    assert 'curves.png' in done.stdout


@pytest.mark.slow
def test_killed_in_the_middle(tmp_path):
    work_dir = tmp_path / 'work'
    command = [
        *('--work-dir', str(work_dir), '--data-dir', str(tmp_path / 'data')),
        *('--epochs', '2', '--train-scenes', '80', '--val-scenes', '2'),
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'demo' / 'run_demo.py'), *command]
    )
    deadline = time.monotonic() + 200
    while not (work_dir / 'epoch_1.pth').exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert not (work_dir / 'epoch_2.pth').exists()
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'training starts from' in (work_dir / 'train.log').read_text()
    assert 'epoch_1.pth' in (work_dir / 'train.log').read_text()
    assert 'epoch 2/2' in done.stdout
    assert 'epoch 1/2' not in done.stdout
    assert os.path.getsize(work_dir / 'curves.png')
