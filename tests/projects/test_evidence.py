# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""projects/evidence: its runner through the real tools, its statistics, its files."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrla.errors import UserError

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO))  # projects is no part of the package

from projects.evidence import make_weights, reads, report, run, same_start  # noqa: E402

RUN = REPO / 'projects/evidence/run.py'
RESULTS = REPO / 'projects/evidence/results.jsonl'


# --- statistics ---------------------------------------------------------------


def test_differences_are_paired_by_seed():
    found = report.difference(
        {0: 43.0, 1: 44.0, 2: 48.0, 9: 1.0}, {2: 44.0, 1: 42.0, 0: 40.0}
    )
    # 3, 2, 4: mean 3, standard error 1 / sqrt(3); t of two degrees is 4.302653 at
    # 97.5%, and its p of sqrt(27) is 0.035099.
    half = 4.302653 / math.sqrt(3)
    assert found is not None
    assert (found.pairs, found.mean) == (3, 3.0)
    assert found.low == pytest.approx(3 - half, abs=1e-5)
    assert found.high == pytest.approx(3 + half, abs=1e-5)
    assert found.p == pytest.approx(0.035099, abs=1e-6)
    assert report.difference({0: 1.0}, {1: 1.0}) is None
    one = report.difference({0: 1.0}, {0: 0.5})
    same = report.difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert one is not None
    assert same is not None
    assert (one.pairs, one.mean) == (1, 0.5)
    assert math.isnan(one.p)
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)


def test_p_values_are_corrected_by_holm():
    # 4 x 0.01, 3 x 0.02, 2 x 0.04 and 1 x 0.05, none below the one before.
    corrected = report.holm([0.04, 0.01, math.nan, 0.05, 0.02])
    assert corrected[:2] == pytest.approx([0.08, 0.04])
    assert math.isnan(corrected[2])
    assert corrected[3:] == pytest.approx([0.08, 0.06])
    assert report.holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])


def _line(config, seed, score, **more):
    return {
        **dict(config=config, recipe='r', seed=seed, scores={'accuracy/top1': score}),
        **dict(commit='c', data='d', device='e', threads=1, torch='2'),
        **more,
    }


LINES = [
    _line('resnet20_plain', 0, 80.0, train_cpu_seconds=90.0, test_cpu_seconds=30.0),
    _line('resnet20_plain', 1, 82.0),
    _line('resnet20_rla', 0, 81.0),
    _line('resnet20_rla', 1, 84.0),
]


def test_report():
    text = report.report(LINES)
    assert '| plain | 2 | 19.0 ± 1.4 | 2.0 |' in text
    assert '| rla | 2 | 17.5 ± 2.1 |  |' in text
    minus = '\N{MINUS SIGN}'
    # -1 and -2: -1.5 +- 12.706 x 0.5, p of t = 3 with one degree.
    row = f'| resnet20 | rla | Error | 2 | {minus}1.5 | {minus}7.9 to +4.9 |'
    assert f'{row} 0.205 | 0.205 |' in text
    assert 'No run' in report.report([])
    scores = [{'accuracy/top1': value} for value in (80.0, 78.0, 79.5)]
    variants = dict(zip(('trained', 'no_reads', 'reset'), scores))
    text = report.report(LINES, [dict(config='resnet20_rla', **variants)])
    assert '| resnet20_rla | Error | 1 | 20.0 | 22.0 | 20.5 |' in text
    with pytest.raises(UserError, match='resnet20_rla has lines with the recipes r, s'):
        report.report([*LINES, {**LINES[2], 'recipe': 's', 'seed': 7}])


# --- results ------------------------------------------------------------------


def test_results_have_one_whole_line_per_run():
    lines = run.read_lines(RESULTS)
    runs = Counter((x['config'], x['recipe'], x['seed']) for x in lines)
    assert not [key for key, number in runs.items() if number > 1]
    for line in lines:
        assert (REPO / f'projects/evidence/configs/{line["config"]}.py').is_file()
        assert re.fullmatch(r'[0-9a-f]{12}', line['commit'])
        for key in ('scores', 'data', 'device', 'torch', 'date', 'threads'):
            assert line[key], key


def test_broken_results_are_named(tmp_path):
    path = tmp_path / 'out.jsonl'
    assert run.read_lines(path) == []
    path.write_text('{"seed": 0}\n{"seed"')
    with pytest.raises(UserError, match='line 2 is no JSON'):
        run.read_lines(path)


# --- networks -----------------------------------------------------------------


def _model(name, **backbone):
    cfg = Config.fromfile(REPO / f'projects/evidence/configs/{name}.py')
    cfg.model.backbone.update(init_cfg=None, **backbone)
    if 'init_cfg' in cfg.model.get('head', {}):
        cfg.model.head.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(cfg.model), cfg


def _used(model):
    """Parameters in use: the last 1x1 conv of MobileNetV2 is not."""
    named = model.named_parameters()
    return sum(p.numel() for n, p in named if not n.startswith('backbone.conv2.'))


DETECTORS = pytest.mark.parametrize(
    'detector', ['retinanet', pytest.param('faster-rcnn', marks=pytest.mark.slow)]
)


@DETECTORS
def test_wide_network_matches_parameters_of_rla(detector):
    sizes = {}
    for kind in ('plain', 'rla', 'wide'):
        sizes[kind] = _used(_model(f'{detector}_{kind}')[0])
    more = sizes['rla'] - sizes['plain']
    assert more > 0
    assert sizes['wide'] - sizes['plain'] == pytest.approx(more, rel=0.02)


@pytest.mark.parametrize('experiment', ['retinanet', 'faster-rcnn', 'resnet20'])
def test_configs_of_experiment_differ_only_in_network(experiment):
    rest = set()
    for path in run.find_configs([experiment]):
        content = Config.fromfile(path).to_dict()
        assert content.pop('model')
        content.pop('weights', None)  # which stand in the model
        rest.add(json.dumps(content, sort_keys=True, default=str))
    assert len(rest) == 1


@DETECTORS
def test_neck_and_heads_start_alike_per_seed(detector):
    def start(kind, seed, at=0):
        model, _ = _model(f'{detector}_{kind}')
        before = {k: v.clone() for k, v in model.state_dict().items()}
        runner = SimpleNamespace(model=model, seed=seed, iter=at, cfg={})
        same_start.SameStartHook().before_train(runner)
        after = model.state_dict()
        moved = {k for k in after if not torch.equal(before[k], after[k])}
        rest = {k: v for k, v in after.items() if not k.startswith('backbone.')}
        return rest, moved

    (plain, moved), (rla, _), (other, _) = (
        start(*args) for args in (('plain', 3), ('rla', 3), ('plain', 4))
    )
    assert moved
    assert not any(name.startswith('backbone.') for name in moved)
    assert all(torch.equal(rla[name], value) for name, value in plain.items())
    weights = [name for name in plain if name.endswith('weight')]
    assert not any(torch.equal(other[name], plain[name]) for name in weights)
    assert not start('rla', 3, at=5)[1]  # a run that goes on


def test_wide_and_eca_start_as_the_plain_network():
    torch.manual_seed(1)
    plain, _ = _model('resnet20_plain')
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias):
                torch.nn.init.normal_(values)
            torch.nn.init.normal_(module.get_buffer('running_mean'))
            torch.nn.init.uniform_(module.get_buffer('running_var'), 0.5, 2)
    weights = {f'module.{k}': v for k, v in plain.backbone.state_dict().items()}
    wide, _ = _model('resnet20_wide')
    grown = make_weights.widened(weights, 8)
    names = {k[len('module.') :]: v for k, v in grown.items()}
    wide.backbone.load_state_dict(names, strict=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (old,), (new,) = plain.backbone.eval()(x), wide.backbone.eval()(x)
    kept = [*range(40), *range(48, 72)]
    assert torch.allclose(new[:, kept], old, atol=1e-4)
    assert new[:, 40:48].abs().max() > 0

    detector, cfg = _model('retinanet_eca', norm_eval=False)
    source, _ = _model('retinanet_plain')
    plain_weights = {
        f'backbone.{k}': v for k, v in source.backbone.state_dict().items()
    }
    eca = make_weights.with_eca(plain_weights, cfg.model.backbone.plugins)
    named = {k[len('backbone.') :]: v for k, v in eca.items()}
    detector.backbone.load_state_dict(named, strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for one, other in zip(source.backbone.eval()(x), detector.backbone.eval()(x)):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def test_removing_reads_and_state():
    model, _ = _model('retinanet_rla')
    backbone = model.backbone.eval()
    plain, _ = _model('retinanet_plain')
    plain.backbone.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    seen = []
    for unit in backbone.rla:
        unit.norms[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        before = backbone(x)
        kept, seen[:] = list(seen), []
        reads.reset_state(backbone)
        reset = backbone(x)
        # What is written to a stage's fresh state is C1 of the first block alone.
        assert torch.equal(seen[0], kept[0])
        assert not torch.equal(seen[1], kept[1])
        assert not torch.equal(before[-1], reset[-1])
        reads.without_reads(backbone)
        for one, other in zip(backbone(x), plain.backbone.eval()(x)):
            assert torch.allclose(one, other, atol=1e-6)


# --- the runner ---------------------------------------------------------------


def _start(config, folder, *arguments):
    return subprocess.Popen(
        [sys.executable, str(RUN), str(config), '--seeds', '3', *arguments]
        + ['--out', str(folder / 'out.jsonl'), '--work-dir', str(folder / 'work')],
        env={**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_killed_run_resumes_and_finished_run_is_not_repeated(
    classifier_config, tmp_path
):
    config = tmp_path / 'long_one.py'
    config.write_text(
        f'_base_ = {str(classifier_config)!r}\n'
        'train_cfg = dict(max_epochs=40)\n'
        'default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1))\n'
    )
    process = _start(config, tmp_path)
    end = time.monotonic() + 200
    while not list((tmp_path / 'work').rglob('epoch_*.pth')):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.05)
    other = _start(config, tmp_path)
    assert 'another process is at work' in other.communicate(timeout=200)[0]
    assert other.returncode == 2
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'out.jsonl').exists()

    process = _start(config, tmp_path)
    out = process.communicate(timeout=280)[0]
    assert process.returncode == 0, out
    (line,) = run.read_lines(tmp_path / 'out.jsonl')
    assert (line['config'], line['seed']) == ('long_one', 3)
    assert len(line['recipe']) == 8
    assert len(line['data']) == 16
    assert 0 <= line['scores']['accuracy/top1'] <= 100
    assert line['test_cpu_seconds'] > 0
    assert 'train_seconds' not in line  # what came before the kill is not known
    assert line['commit']
    log = next((tmp_path / 'work').rglob('train.log')).read_text()
    assert 'resumed epoch: ' in log
    assert _start(config, tmp_path).communicate(timeout=200)[0] == ''
    assert len(run.read_lines(tmp_path / 'out.jsonl')) == 1

    # What the trained network does with its hidden state.
    pytest.importorskip('matplotlib')
    (work_dir,) = (tmp_path / 'work').glob('long_one-*/seed3')
    out, figure = tmp_path / 'reads.jsonl', tmp_path / 'figure'
    for _ in range(2):
        reads.main([str(work_dir), '--out', str(out), '--figure', str(figure)])
    (found,) = run.read_lines(out)
    assert [found[key] for key in ('config', 'recipe', 'seed')] == [
        line[key] for key in ('config', 'recipe', 'seed')
    ]
    assert found['trained']['accuracy/top1'] == line['scores']['accuracy/top1']
    assert found['no_reads'].keys() == found['reset'].keys()
    assert len(found['ratios']) == 16
    assert found['ratios'][0] == ['layer1', 1, 0.0]  # h_0 is zero
    assert all(ratio > 0 for *_, ratio in found['ratios'][1:])
    assert figure.with_suffix('.svg').is_file()


def test_unknown_names():
    with pytest.raises(UserError, match='nonesuch is no config; there are .*plain'):
        run.find_configs(['nonesuch'])
    names = [path.stem for path in run.find_configs(['resnet20', 'retinanet_rla'])]
    assert names[0] == 'resnet20_plain'
    assert names[-1] == 'retinanet_rla'
