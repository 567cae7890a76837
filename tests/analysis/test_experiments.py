# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import json
import math

import pytest

from mmrla.analysis import evidence
from mmrla.analysis.experiments import (
    EXPERIMENTS,
    Experiment,
    Network,
    Score,
    data_root_of,
    difference,
    fit_scores,
    iterations,
    read_lines,
    short_config,
    size_scores,
    summary,
    values,
)
from mmrla.errors import UserError

EXPERIMENT = Experiment(
    name='tiny',
    title='Tiny',
    data='cifar10',
    train_images=64,
    test_images=10,
    networks=(
        Network('Plain', 'resnet110_1xb128_cifar10'),
        Network('RLA', 'rla-resnet110_1xb128_cifar10', 'Plain'),
        Network('Other', 'x', 'Plain', {'a': 1}),
    ),
    scores=(
        Score('top1', 'Error', 1, -1, 100, compared=True, lower_is_better=True),
        Score('rest', 'Rest'),
    ),
    options={'train_dataloader.batch_size': 32},
)


def _line(network, seed, top1, **more):
    return dict(
        experiment='tiny',
        network=network,
        seed=seed,
        scores=dict(top1=top1),
        epochs=0.5,
        iterations=1,
        images=32,
        test_images=10,
        device='CPU',
        threads=1,
        torch='2',
        data='d',
        commit='c',
        **more,
    )


LINES = [
    _line('Plain', 0, 40.0, train_cpu_seconds=60.0, test_cpu_seconds=30.0),
    _line('Plain', 1, 42.0, train_cpu_seconds=60.0, test_cpu_seconds=30.0),
    _line('Plain', 2, 44.0),
    _line('RLA', 0, 43.0),
    _line('RLA', 2, 48.0),
    _line('RLA', 1, 44.0),
]


# --- statistics ---------------------------------------------------------------


def test_mean_and_spread():
    assert summary([1.0, 2.0, 6.0]) == (3, 3.0, pytest.approx(math.sqrt(7)))
    size, mean, std = summary([5.0])
    assert (size, mean) == (1, 5.0)
    assert math.isnan(std)
    with pytest.raises(ValueError, match='scores is empty'):
        summary([])


def test_difference_is_paired_by_seed():
    found = difference({0: 3.0, 1: 4.0, 2: 8.0, 9: 100.0}, {2: 4.0, 1: 2.0, 0: 2.0})
    assert found is not None
    # 1, 2 and 4: mean 7/3, variance 7/3; Student's t of two degrees is 4.303.
    assert found.size == 3
    assert found.mean == pytest.approx(7 / 3)
    assert found.std == pytest.approx(math.sqrt(7 / 3))
    assert found.half_width == pytest.approx(4.303 * math.sqrt(7 / 3) / math.sqrt(3))
    assert not found.is_shown
    # 3, 2 and 4: 3 +- 4.303 / sqrt(3)
    found = difference({0: 43.0, 1: 44.0, 2: 48.0}, {0: 40.0, 1: 42.0, 2: 44.0})
    assert found is not None
    assert found.half_width == pytest.approx(2.484, abs=1e-3)
    assert found.is_shown
    assert difference({0: 1.0}, {1: 1.0}) is None
    one = difference({0: 1.0}, {0: 0.0})
    assert one is not None
    assert math.isnan(one.half_width)
    assert not one.is_shown


def test_quantiles_of_student():
    stats = pytest.importorskip('scipy.stats')
    for size in range(2, 11):
        pairs = {i: float(i) for i in range(size)}
        result = difference(pairs, dict.fromkeys(pairs, 0.0))
        assert result is not None
        t = stats.t.ppf(0.975, size - 1)
        assert result.half_width == pytest.approx(
            t * result.std / math.sqrt(size), rel=1e-3
        )


def test_values_are_shown_as_the_score_says():
    plain = EXPERIMENT.network('Plain')
    error, rest = EXPERIMENT.scores
    assert values(LINES, EXPERIMENT, plain, error) == {0: 60.0, 1: 58.0, 2: 56.0}
    assert values(LINES, EXPERIMENT, plain, rest) == {}


def test_broken_results_are_named(tmp_path):
    path = tmp_path / 'out.jsonl'
    assert read_lines(path) == []
    path.write_text('{"seed": 0}\n{"seed"')
    with pytest.raises(UserError, match='line 2 is no JSON'):
        read_lines(path)


# --- scores -------------------------------------------------------------------


def test_fit():
    losses = {1: 4.0, 2: 2.0, 3: 0.5, 4: 0.75}
    assert fit_scores(losses, [1.0, 0.1], 40.0) == {
        'fit/first': 4.0,
        'fit/last': 0.75,
        'fit/iterations_1': 3.0,
        'fit/cpu_seconds_1': 30.0,
    }
    assert 'fit/cpu_seconds_1' not in fit_scores(losses, [1.0], None)


def test_ap_by_the_size_of_boxes(tmp_path):
    """A small object is found, a medium one is not, and there is no large one."""
    boxes = [[0, 0, 10, 10], [30, 30, 30, 30]]
    truth = dict(
        images=[dict(id=1, width=96, height=96, file_name='1.jpg')],
        categories=[dict(id=1, name='1')],
        annotations=[
            # By its mask the second one would be small.
            dict(id=i + 1, image_id=1, category_id=1, bbox=box, area=20, iscrowd=0)
            for i, box in enumerate(boxes)
        ],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(truth))
    found = [dict(image_id=1, category_id=1, bbox=boxes[0], score=0.9)]
    (tmp_path / 'found.json').write_text(json.dumps(found))
    scores = size_scores(tmp_path / 'truth.json', tmp_path / 'found.json', 'bbox')
    assert scores == {
        'size/bbox_small': pytest.approx(1.0),
        'size/bbox_medium': pytest.approx(0.0),
    }
    (tmp_path / 'found.json').write_text('[]')
    assert size_scores(tmp_path / 'truth.json', tmp_path / 'found.json', 'bbox') == {}


# --- configs ------------------------------------------------------------------


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_configs_of_an_experiment_differ_in_their_networks_only(name):
    experiment = EXPERIMENTS[name]
    assert experiment.name == name
    rest = []
    for network in experiment.networks:
        cfg = short_config(experiment, network, 7, '/elsewhere')
        assert cfg.randomness.seed == 7
        assert data_root_of(cfg) == '/elsewhere'
        assert iterations(experiment, cfg) > 0
        assert '/elsewhere' in str(cfg.train_dataloader)
        content = cfg.to_dict()
        for key in ('model', 'custom_imports', 'channels', 'rla_resnet50'):
            content.pop(key, None)
        rest.append(json.dumps(content, sort_keys=True, default=str))
        if network.plain:
            assert experiment.network(network.plain).plain is None
    assert len(set(rest)) == 1
    if experiment.scenes:
        assert experiment.train_images == experiment.scenes.num_train
        assert (
            cfg.test_evaluator.ann_file == '/elsewhere/annotations/instances_val.json'
        )


def test_epochs_are_counted_in_iterations():
    cfg = short_config(EXPERIMENT, EXPERIMENT.networks[0], 0)
    assert iterations(EXPERIMENT, cfg) == 300 * 2


# --- tables and plot ----------------------------------------------------------


def test_tables():
    text = evidence.experiment_text(EXPERIMENT, LINES)
    assert text.startswith('6 runs, seeds 0, 1, 2; 1 iterations, 32 images in all')
    assert '| Plain | 3 | 58.0 ± 2.0 |  | 1.5 |' in text
    assert '| RLA | 3 | 55.0 ± 2.6 |  |  |' in text
    minus = '\N{MINUS SIGN}'
    row = (
        f'| RLA | Plain | Error | 3 | {minus}3.0 | {minus}5.5 to {minus}0.5 | better |'
    )
    assert row in text
    worse = [dict(line, seed=line['seed']) for line in LINES]
    for line in worse:
        line['scores'] = dict(top1=100 - line['scores']['top1'])
    assert '| +0.5 to +5.5 | worse |' in evidence.experiment_text(EXPERIMENT, worse)
    few = evidence.experiment_text(EXPERIMENT, LINES[:1] + LINES[3:4])
    assert f'| {minus}3.0 | one seed | no difference shown |' in few
    assert evidence.experiment_text(EXPERIMENT, []) == 'No run is recorded yet.\n'


def test_table_beside_the_paper():
    scores = {'resnet110_1xb128_cifar10': 6.35, 'rla-resnet110_1xb128_cifar10': 5.88}
    text = evidence.beside_the_paper(EXPERIMENT, LINES, {**scores, 'x': 1.0})
    minus = '\N{MINUS SIGN}'
    assert '| Plain | 6.35 |  | 58.0 ± 2.0 |  |  |' in text
    assert f'| RLA | 5.88 | {minus}0.47 | 55.0 ± 2.6 | {minus}3.0 |' in text
    # With other settings a config is not the paper's network.
    assert '| Other |  |  |  |  |  |' in text
