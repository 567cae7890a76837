# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Ratios, memory and operator counts of the benchmark."""

import os
import os.path as osp
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from mmrla.analysis import benchmark
from mmrla.analysis.benchmark import Form, compare, make_step

from ..conftest import load_tool

pytest.importorskip('mmpretrain')


def _config(**backbone: Any) -> Config:
    backbone = dict(
        dict(
            type='RLAResNet',
            depth=50,
            base_channels=8,
            stem_channels=8,
            rla_channels=4,
        ),
        **backbone,
    )
    k = backbone['rla_channels']
    backbone['return_hidden'] = bool(k)
    return Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='RLANeck', rla_channels=k),
                head=dict(
                    type='RLALinearClsHead',
                    num_classes=10,
                    in_channels=256,
                    rla_channels=k,
                ),
            ),
        ),
    )


@pytest.mark.parametrize('mode', benchmark.MODES)
def test_ratios_are_to_the_first_network(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A fake clock gives 1 s for the first network and 3 s for the other."""
    order = []

    def timed(step: Any, form: Form) -> float:
        step()
        order.append(step)
        return 1.0 if step is order[0] else 3.0

    monkeypatch.setattr(benchmark, '_timed', timed)
    cfgs = dict(plain=_config(rla_channels=0), rla=_config())
    form = Form(mode=mode, batch_size=2, shape=(32, 32))
    first, second = compare(cfgs, form, rounds=4, warmup=1)
    assert (first.ratio, second.ratio) == (1.0, 3.0)
    assert (first.images_per_second, second.images_per_second) == (2.0, 2 / 3)
    assert second.kernels
    assert first.kernels
    assert second.memory_ratio
    assert second.kernels > first.kernels > 100
    # Interleaved, each in turn first.
    assert [step is order[0] for step in order] == [True, False, False, True] * 2
    assert second.memory_ratio is not None
    assert 1 < second.memory_ratio < 2
    assert first.memory_ratio == 1
    assert 'aten::tanh' in set(second.profile) - set(first.profile)


@pytest.mark.parametrize('mode', benchmark.MODES)
def test_peak_memory(mode: str) -> None:
    """Known sizes for one linear layer: weights, gradients, inputs, outputs."""
    model = torch.nn.Linear(1000, 1000, bias=False)
    x = torch.ones(500, 1000)

    def step() -> None:
        y = model(x).tanh()  # two maps, of which only the second is kept
        if mode == 'train':
            y.sum().backward()
            model.zero_grad(set_to_none=True)

    with torch.set_grad_enabled(mode == 'train'):
        peak, _, _ = benchmark._profile(step, model, Form(mode=mode))
    weight, y = 4_000_000, 2_000_000
    # Backward: the tanh's output, its gradient, and the weight's gradient.
    assert peak is not None
    expected = {'inference': weight + 2 * y, 'train': 2 * weight + 2 * y + weight}
    assert expected[mode] <= peak < expected[mode] + 100_000


def test_deployed_form_runs_fewer_operators() -> None:
    cfgs = dict(rla=_config())
    plain, deployed = (
        compare(cfgs, Form(batch_size=1, shape=(32, 32), form=form), 1, 1)[0]
        for form in ('default', 'deployed')
    )
    # At least the 53 norms that follow convs.
    assert deployed.kernels < plain.kernels - 53


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_train_step_changes_the_weights(precision: str) -> None:
    step, model = make_step(
        _config(), Form(mode='train', precision=precision, batch_size=2, shape=(32, 32))
    )
    before = model.head.fc.weight.clone()
    step()
    assert not torch.equal(before, model.head.fc.weight)


def test_fused_form_needs_less_memory() -> None:
    cfgs = dict(rla=_config(base_channels=32, stem_channels=32))
    cfgs['rla'].model.head.in_channels = 1024
    default, fused = (
        compare(cfgs, Form(mode='train', batch_size=2, form=form), 1, 1)[0]
        for form in ('default', 'fused')
    )
    assert fused.memory is not None
    assert default.memory is not None
    assert fused.memory < 0.9 * default.memory


def test_named_sets_have_configs() -> None:
    root = osp.join(osp.dirname(__file__), '../..')
    tool = runpy.run_path(osp.join(root, 'tools/analysis_tools/benchmark.py'))
    for networks in tool['SETS'].values():
        for name in networks.values():
            assert osp.isfile(osp.join(root, 'configs', name)), name


def test_benchmark_accepts_options_of_gpu_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the script with a stand-in for Python that records its arguments."""
    tool = load_tool('analysis_tools/benchmark')
    asked = tmp_path / 'asked'
    python = tmp_path / 'python'
    python.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    python.chmod(0o755)
    script = osp.join(osp.dirname(tool.__file__), 'gpu_check.sh')
    env = dict(os.environ, PYTHON=str(python))
    command = ['bash', script, '--out', str(tmp_path / 'out')]
    subprocess.run(command, env=env, check=True, timeout=60)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    runs = [line.split() for line in asked.read_text().splitlines()]
    runs = [run[1:] for run in runs if run[0].endswith('benchmark.py')]
    forms = [tool.parse_args(run) for run in runs]
    assert {f.device for f in forms} == {'cuda'}
    assert {f.precision for f in forms} == {'fp32', 'tf32', 'bf16', 'fp16'}
    assert {f.form for f in forms} == {'default', 'fused', 'deployed'}
    assert any(f.cuda_graph for f in forms)
    assert any(f.compile for f in forms)
