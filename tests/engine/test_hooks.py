# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import errno
import os
from pathlib import Path
from typing import List

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmrla.engine import checkpoint_io
from mmrla.engine.checkpoint_io import AtomicBackend, is_whole, newest_whole
from mmrla.errors import UserError

SCORES = [0.1, 0.5, 0.3, 0.7]


class Toy(BaseModel):
    """Learns from noise that it draws itself, as detectors sample boxes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def init_weights(self):
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs, mode='tensor'):
        x = torch.stack(inputs) + torch.rand(len(inputs), 2)
        if mode == 'loss':
            return dict(loss=self.linear(x).square().mean())
        return [0]


class Score(BaseMetric):
    """Scores by epoch, from a list."""

    default_prefix = 'toy'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(acc=SCORES[Score.runner.epoch - 1])

    runner: Runner


@pytest.fixture(autouse=True)
def _same_loaders(monkeypatch):
    """Forget the loaders that a resumed run registers."""
    schemes = CheckpointLoader._schemes.copy()
    monkeypatch.setattr(CheckpointLoader, '_schemes', schemes)


def make_runner(work_dir, epochs=4, resume=None, **hook):
    loader = dict(
        batch_size=2,
        dataset=[dict(inputs=torch.tensor([i, 1.0])) for i in range(4)],
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    hook = dict(dict(type='SafeCheckpointHook', interval=1), **hook)
    runner = Runner(
        Toy(),
        str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=[Score()],
        default_hooks=dict(checkpoint=hook),
        custom_hooks=[dict(type='StepSeedHook')],
        randomness=dict(seed=3),
        resume=resume is not None,
        load_from=resume and str(resume),
        experiment_name=f'toy{next(COUNTER)}',
        cfg=Config(dict()),
    )
    Score.runner = runner
    if resume is not None:
        checkpoint_io.use_safe_loading(own=str(resume))  # as tools/train.py does
    return runner


COUNTER = iter(range(1000))


def files(folder):
    paths = (p for p in Path(folder).iterdir() if p.suffix != '.py')
    return sorted(p.name for p in paths if p.is_file())


def last(work_dir):
    return Path((Path(work_dir) / 'last_checkpoint').read_text()).name


class Killed(BaseException):
    """Ends a run as a signal does: nothing catches it."""


def kill_at(monkeypatch, owner, name, number):
    """Let the call with this number die before it does anything."""
    original = getattr(owner, name)
    calls: List[int] = []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


def test_newest_checkpoints_are_kept(tmp_path):
    make_runner(tmp_path, max_keep_ckpts=2).train()
    assert files(tmp_path) == ['epoch_3.pth', 'epoch_4.pth', 'last_checkpoint']
    assert last(tmp_path) == 'epoch_4.pth'


@pytest.mark.parametrize('hook', ['SafeCheckpointHook', 'CheckpointHook'])
def test_same_files_as_mmengine(tmp_path, hook):
    make_runner(tmp_path, type=hook, max_keep_ckpts=2, save_best='toy/acc').train()
    names = ['best_toy_acc_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth']
    assert files(tmp_path) == [*names, 'last_checkpoint']
    checkpoint = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)
    assert set(checkpoint) == {'meta', 'state_dict', 'message_hub', 'optimizer'}
    info = checkpoint['message_hub']['runtime_info']
    assert info['keep_ckpt_ids'][-2:] == [3, 4]
    assert info['best_ckpt'] == str(tmp_path / 'best_toy_acc_epoch_4.pth')
    assert info['last_ckpt'] == str(tmp_path / 'epoch_4.pth')


@pytest.mark.parametrize('step', ['open', 'fsync', 'replace', 'unlink'])
def test_kill_at_any_call_leaves_whole_checkpoint(tmp_path, monkeypatch, step):
    """The resumed run ends with the files and weights of an undisturbed one."""
    owner = Path if step in ('open', 'unlink') else os
    kwargs = dict(epochs=2, max_keep_ckpts=1, save_best='toy/acc')
    undisturbed = tmp_path / 'undisturbed'
    make_runner(undisturbed, **kwargs).train()
    end = torch.load(undisturbed / 'epoch_2.pth', weights_only=False)['state_dict']

    for number in range(1, 100):
        work_dir = tmp_path / f'killed{number}'
        runner = make_runner(work_dir, **kwargs)
        with monkeypatch.context() as patch:
            kill_at(patch, owner, step, number)
            try:
                runner.train()
                break  # the run was over by then
            except Killed:
                pass
        found = newest_whole(str(work_dir), str(work_dir), 'epoch_{}.pth')
        checkpoints = list(work_dir.glob('*.pth'))
        assert found is not None or not checkpoints
        assert all(is_whole(str(path)) for path in checkpoints)

        make_runner(work_dir, resume=found, **kwargs).train()
        saved = torch.load(work_dir / 'epoch_2.pth', weights_only=False)
        assert all(end[k].equal(v) for k, v in saved['state_dict'].items())
        assert len(list(work_dir.glob('epoch_*.pth'))) == 1
        assert not list(work_dir.glob('.*.tmp'))
        assert last(work_dir) == 'epoch_2.pth'
    assert number > 2  # it did die at several


def test_full_disk_is_reported_and_keeps_files(tmp_path, monkeypatch):
    runner = make_runner(tmp_path, max_keep_ckpts=1)
    original, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) == 5:  # the second checkpoint
            raise OSError(errno.ENOSPC, 'No space left on device')
        original(descriptor)

    monkeypatch.setattr(checkpoint_io.os, 'fsync', full)
    with pytest.raises(UserError, match='epoch_2.pth: No space left on device'):
        runner.train()
    assert files(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    assert is_whole(str(tmp_path / 'epoch_1.pth'))
    assert last(tmp_path) == 'epoch_1.pth'


def test_resuming_older_checkpoint_keeps_newer_ones(tmp_path):
    make_runner(tmp_path).train()
    before = (tmp_path / 'epoch_3.pth').read_bytes()
    make_runner(tmp_path, resume=tmp_path / 'epoch_2.pth').train()
    (folder,) = (tmp_path / 'earlier').iterdir()
    assert files(folder) == ['epoch_3.pth', 'epoch_4.pth']
    assert (folder / 'epoch_3.pth').read_bytes() == before


def test_out_dir(tmp_path):
    make_runner(tmp_path / 'work', out_dir=str(tmp_path / 'out'), epochs=1).train()
    assert files(tmp_path / 'out' / 'work') == ['epoch_1.pth']
    assert last(tmp_path / 'work') == 'epoch_1.pth'


def test_own_backend_args_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(AtomicBackend, 'put', lambda *args: pytest.fail('used'))
    make_runner(tmp_path, epochs=2, backend_args=dict(backend='local')).train()
    assert files(tmp_path) == ['epoch_1.pth', 'epoch_2.pth', 'last_checkpoint']


def test_each_step_draws_other_numbers(tmp_path):
    drawn: List[float] = []
    model_forward = Toy.forward
    try:

        def forward(self, inputs, mode='tensor'):
            drawn.append(torch.rand(1).item())
            return model_forward(self, inputs, mode)

        Toy.forward = forward  # type: ignore[method-assign]
        make_runner(tmp_path, epochs=2).train()
    finally:
        Toy.forward = model_forward  # type: ignore[method-assign]
    assert len(set(drawn)) == len(drawn) == 8
