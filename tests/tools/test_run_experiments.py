# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tiny experiments through the real train.py and test.py, in their own processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mmrla.analysis.experiments import Experiment, Network, Score

from .conftest import TOOLS, environment, load_tool

TOOL = 'misc/run_experiments'


@pytest.fixture
def tool(monkeypatch, classifier_config, detector_config):
    """The tool, with an experiment of two classifiers and one of a detector."""
    module = load_tool(TOOL)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    short = {'train_cfg.max_epochs': 4, 'default_hooks.logger.interval': 1}
    wide = {'model.head.in_channels': 5}
    unfit = {'train_dataloader.dataset.pipeline.7.type': 'x'}
    score = Score('accuracy/top1', 'Top-1', compared=True)
    classes = Experiment(
        'classes',
        'Two classes',
        data='tiny',
        train_images=8,
        test_images=6,
        networks=(
            Network('Good', str(classifier_config)),
            Network('Bad one', str(classifier_config), 'Good', wide),
            Network('Worse one', str(classifier_config), 'Good', unfit),
        ),
        scores=(score,),
        options=short,
        seeds=(0,),
    )
    boxes = Experiment(
        'boxes',
        'Boxes',
        data='boxes',
        train_images=8,
        test_images=5,
        networks=(Network('RLA', str(detector_config)),),
        scores=(Score('coco/bbox_mAP', 'AP', factor=100),),
        options={'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 5},
        seeds=(3,),
    )
    fit = Experiment(
        'fit',
        'Fit',
        data='tiny',
        train_images=8,
        test_images=6,
        networks=classes.networks[:1],
        scores=(Score('fit/last', 'Last loss'),),
        options={**short, 'train_cfg.max_epochs': 1},
        loss_levels=(1000.0, 0.0),
        seeds=(3,),
    )
    known = {e.name: e for e in (classes, boxes, fit)}
    monkeypatch.setattr(module, 'EXPERIMENTS', known)
    return module


@pytest.fixture
def options(tmp_path):
    return ['--out', str(tmp_path / 'out.jsonl'), '--work-dir', str(tmp_path / 'work')]


def _lines(tmp_path):
    path = tmp_path / 'out.jsonl'
    text = path.read_text() if path.is_file() else ''
    return [json.loads(line) for line in text.splitlines()]


def test_a_failing_run_is_reported_and_the_rest_go_on(tool, options, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        tool.main(['classes', '--jobs', '2', *options])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert '3 of 3 runs have no line' in out
    assert 'classes, Bad one, seed 0: FAILED: tools/train.py: ' in out
    assert 'shapes' in out
    assert 'classes, Worse one, seed 0: FAILED: --cfg-options does not fit' in out
    assert '2 of 3 runs failed: ' in err
    (line,) = _lines(tmp_path)
    assert (line['network'], line['seed'], line['config']) == ('Good', 0, 'classifier')
    assert (line['epochs'], line['iterations'], line['images']) == (4, 16, 32)
    assert 0 <= line['scores']['accuracy/top1'] <= 100
    assert line['train_cpu_seconds'] > 0
    assert line['test_seconds'] > 0
    assert len(line['data']) == 16
    assert line['commit']
    assert line['device']
    assert not list(tmp_path.rglob('*.pth'))

    # What has its line is not run again.
    tool.main(['classes', '--networks', 'Good', *options])
    assert '0 of 1 runs have no line' in capsys.readouterr().out
    assert len(_lines(tmp_path)) == 1


def test_a_killed_run_goes_on(tool, options, tmp_path, capsys):
    run = tool.Run(tool.EXPERIMENTS['classes'], *_network(tool, 'classes'), 0)
    args = tool.parse_args(['classes', *options])
    facts = dict(commit='c', data='d', device='e', threads=1, torch='f')
    job = tool.Job(run, args, facts)
    job.start()
    end = time.monotonic() + 120
    while not (job.work_dir / 'epoch_1.pth').exists():
        assert not job.poll(), job.error
        assert time.monotonic() < end
        time.sleep(0.02)
    # Another call leaves a run alone that is under way.
    other = tool.Job(run, args, facts)
    other.start()
    assert other.poll()
    assert 'another process is at work in ' in other.error

    os.kill(job.process.pid, signal.SIGKILL)
    while not job.poll():
        time.sleep(0.02)
    assert 'tools/train.py: ' in job.error
    job.lock.close()
    assert not _lines(tmp_path)

    tool.main(['classes', '--networks', 'Good', '--seeds', '0', *options])
    (line,) = _lines(tmp_path)
    log = (job.work_dir / 'train.log').read_text()
    assert 'resumed epoch: ' in log
    assert 'train_seconds' not in line  # not known
    assert line['test_seconds'] > 0


def _network(tool, name):
    return tool.EXPERIMENTS[name].networks[:1]


def test_a_detector_is_scored_by_size_and_a_fit_by_its_loss(tool, options, tmp_path):
    tool.main(['boxes', 'fit', '--jobs', '2', *options])
    fit, boxes = sorted(_lines(tmp_path), key=lambda line: len(line['scores']))
    assert boxes['seed'] == fit['seed'] == 3
    assert 0 <= boxes['scores']['coco/bbox_mAP'] <= 1
    assert 0 <= boxes['scores']['size/bbox_medium'] <= 1
    assert all(value >= 0 for value in boxes['scores'].values())
    assert fit['scores']['fit/iterations_1000'] == 1
    assert fit['scores']['fit/cpu_seconds_1000'] > 0
    assert 'fit/iterations_0' not in fit['scores']
    assert fit['test_seconds'] > 0


def test_changed_options_start_anew(tool, options, tmp_path):
    run = tool.Run(tool.EXPERIMENTS['classes'], *_network(tool, 'classes'), 0)
    job = tool.Job(run, tool.parse_args(['classes', *options]), {})
    job.config.parent.mkdir(parents=True)
    job.config.write_text('old = 1\n')
    (job.work_dir / 'epoch_1.pth').write_text('old')
    job.start()
    assert not (job.work_dir / 'epoch_1.pth').exists()
    job.stop()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['nonesuch'], "invalid choice: 'nonesuch'"),
        (['cifar10', '--data', 'cifar10'], "'cifar10' is not NAME=FOLDER"),
        (['cifar10', '--jobs', '0'], '--jobs 0: at least 1 is needed'),
        (['cifar10', '--networks', 'VGG'], "'VGG' is in none of cifar10"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        load_tool(TOOL).parse_args(arguments)
    assert message in capsys.readouterr().err


def test_missing_data_are_named(tmp_path):
    """The program as it is started; nothing is trained."""
    done = subprocess.run(
        [
            sys.executable,
            str(TOOLS / f'{TOOL}.py'),
            'cifar10',
            *('--data', f'cifar10={tmp_path / "none"}'),
            *('--out', str(tmp_path / 'out.jsonl')),
            *('--work-dir', str(tmp_path / 'work')),
        ],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'none does not exist; docs/data.md says' in done.stderr


def test_seeds_come_one_after_the_other():
    tool = load_tool(TOOL)
    runs = tool.plan(tool.parse_args(['all']))
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len({run.folder for run in runs}) == len(runs)
    args = tool.parse_args(['cifar10', '--networks', 'ResNet-110', '--seeds', '5', '4'])
    assert [run.key for run in tool.plan(args)] == [
        ('cifar10', 'ResNet-110', 4),
        ('cifar10', 'ResNet-110', 5),
    ]
