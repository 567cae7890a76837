# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A small demo: what it writes, how it resumes, how it fails."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from mmrla.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'demo'))

import run_demo  # noqa: E402

SMALL = ['--train-scenes', '16', '--val-scenes', '3', '--cfg-options']


def start(folder: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / 'demo/run_demo.py'), *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *options: str) -> str:
    process = start(folder, *options)
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, output + errors
    return output


@pytest.mark.slow
def test_demo_from_nothing_then_again(tmp_path):
    """In a folder with a difficult name; the second run trains nothing."""
    folder = tmp_path / 'a [work], dir'
    folder.mkdir()
    work_dir = folder / 'work_dirs/demo'
    output = run(folder, *SMALL, 'train_cfg.max_epochs=1')
    assert output.count('Average Precision') == 2 * 6
    assert 'Epoch(train) [1][2/2]' in ' '.join(output.split())
    pictures = list((work_dir / 'pictures/vis').iterdir())
    assert len(pictures) == 3
    for path in [work_dir / 'curves.png', *pictures]:
        assert cv2.imread(str(path)).std() > 10
    trained = (work_dir / 'epoch_1.pth').read_bytes()
    output = run(folder, *SMALL, 'train_cfg.max_epochs=1')
    assert 'is used again' in output
    assert 'Epoch(train)' not in output
    assert (work_dir / 'epoch_1.pth').read_bytes() == trained


@pytest.mark.slow
def test_killed_demo_resumes(tmp_path):
    first = tmp_path / 'work_dirs/demo/epoch_1.pth'
    process = start(tmp_path, *SMALL, 'train_cfg.max_epochs=1000')
    deadline = time.monotonic() + 200
    while not first.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    last = Path((first.parent / 'last_checkpoint').read_text())
    epoch = int(last.stem.rpartition('_')[2])
    output = run(tmp_path, *SMALL, f'train_cfg.max_epochs={epoch + 1}')
    assert f'Epoch(train) [{epoch + 1}]' in ' '.join(output.split())
    assert f'Epoch(train) [{epoch}]' not in ' '.join(output.split())


@pytest.mark.parametrize('ap, low', [((0.71, 0.56), False), ((0.71, 0.54), True)])
def test_low_ap_fails_only_with_default_settings(ap, low):
    metrics = dict(zip(run_demo.EXPECTED, ap))
    run_demo.check(metrics, is_plain=False)
    if low:
        with pytest.raises(UserError, match='segm_mAP 0.540') as error:
            run_demo.check(metrics, is_plain=True)
        assert error.value.status == 1
    else:
        run_demo.check(metrics, is_plain=True)


def test_failing_tool_is_an_error(tmp_path):
    with pytest.raises(UserError, match="GPUS='x'") as error:
        run_demo.run_tool(tmp_path / 'log', 'tools/dist_run.py', 'x', 'a.py')
    assert error.value.status == 1
    assert "GPUS='x'" in (tmp_path / 'log').read_text()


@pytest.mark.parametrize(
    'options, culprit',
    [
        (['--train-scenes', '0'], 'num_train is 0'),
        (['--work-dir', str(ROOT / 'README.md')], 'README.md'),
    ],
)
def test_bad_options_give_one_line(tmp_path, monkeypatch, capsys, options, culprit):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)  # it would stay
    with pytest.raises(SystemExit):
        run_demo.main(options)
    (line,) = capsys.readouterr().err.splitlines()
    assert culprit in line
    assert not list(tmp_path.iterdir())
