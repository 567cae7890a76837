# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Parameters and FLOPs of configs, with RLA's part by stage."""

import json

import pytest
from mmengine.config import Config

from mmrla.analysis import networks
from mmrla.analysis.complexity import Cost, measure
from mmrla.analysis.networks import analyse, input_shape

from .conftest import REPO, call, error_line

TOOL = 'analysis_tools/get_flops'
CONFIGS = REPO / 'configs'


def counts(capsys, *args):
    capsys.readouterr()
    call(TOOL, *args, '--format', 'json')
    return json.loads(capsys.readouterr().out)


def test_classifier_with_shares_of_stages(capsys, classifier_config):
    result = counts(capsys, classifier_config, '--shape', 64, 96)
    assert result['shape'] == [64, 96]
    assert result['proposals'] is None
    assert result['uncounted'] == []
    plain = counts(
        capsys,
        classifier_config,
        '--shape',
        64,
        96,
        '--cfg-options',
        'model.backbone.rla_channels=0',
        'model.backbone.return_hidden=False',
        'model.neck.rla_channels=0',
        'model.head.rla_channels=0',
    )
    assert plain['rla'] == {}
    stages = [f'backbone.rla.{i}' for i in range(4)]
    assert list(result['rla']) == [*stages, 'after the stages']
    for key in 'params', 'macs', 'paper_flops':
        shares = sum(share[key] for share in result['rla'].values())
        assert result['total'][key] - plain['total'][key] == shares > 0
        for stage in stages:
            share = result['rla'][stage]
            assert share['unit'][key] + share['reading'][key] == share[key]
        parts = sum(part[key] for part in result['parts'].values())
        assert parts == result['total'][key]
    # Four channels of h in the first conv of each block, whatever reads them.
    assert result['rla']['backbone.rla.0']['reading']['params'] == 3 * 4 * 8


def test_detector_counts_its_test_proposals(capsys, detector_config):
    result = counts(capsys, detector_config, '--shape', 64)
    assert result['shape'] == [64, 64]
    assert result['proposals'] == 50
    # The shared linear layers run once for each proposal.
    head = result['parts']['roi_head']
    linear = 16 * 49 * 32 + 32 * 32 + 32 * 3 + 32 * 8
    assert head['macs'] == 50 * linear
    # A detector's last stage has no last update.
    assert list(result['rla']) == [f'backbone.rla.{i}' for i in range(4)]
    last = result['rla']['backbone.rla.3']['unit']['params']
    assert last == 256 * 4 + 4 * 4 * 9 + 2 * (2 * 4)
    assert result['uncounted'] == []


def test_padding_follows_config(capsys, detector_config):
    result = counts(capsys, detector_config, '--shape', 50, 90)
    assert result['shape'] == [64, 96]


def test_text(capsys, classifier_config):
    call(TOOL, classifier_config, '--shape', 224)
    text = capsys.readouterr().out
    result = counts(capsys, classifier_config, '--shape', 224)
    assert 'image:      224 x 224' in text
    assert f'parameters: {result["total"]["params"]:,}' in text
    total = result['total']
    assert (
        f'{total["params"] / 2**20:.2f}M, {total["paper_flops"] / 2**20:.1f}M' in text
    )
    assert 'FLOPs (10^6)' in text
    for words in 'backbone.layer3', 'reading of h', 'RLA in total', 'norm of h':
        assert words in text


@pytest.mark.parametrize(
    'config, expected',
    [
        ('rla_resnet/rla-resnet50_4xb64_in1k.py', (224, 224)),
        ('cifar/rla-resnet164_1xb128_cifar10.py', (32, 32)),
        ('faster_rcnn/faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py', (800, 1333)),
    ],
)
def test_shape_of_test_pipeline(config, expected):
    assert input_shape(Config.fromfile(CONFIGS / config)) == expected


def test_default_shape():
    assert input_shape(Config()) == (224, 224)


def test_one_stage_detector_is_measured_on_meta(monkeypatch, detector_config):
    devices = []

    def spied(model, inputs, *args):
        devices.append(inputs.device.type)
        return measure(model, inputs, *args)

    monkeypatch.setattr(networks, 'measure', spied)
    cfg = Config.fromfile(detector_config)
    cfg.model = Config.fromfile(
        CONFIGS / 'retinanet' / 'retinanet_rla-r50_fpn_4xb2-1x_coco.py'
    ).model
    analysis = analyse(cfg, (800, 1333))
    assert set(devices) == {'meta'}
    assert analysis.shape == (800, 1344)
    assert analysis.proposals is None
    # Four 3x3 convs and an output for 9 anchors of 80 classes and 4 sides each, on
    # five maps.
    positions = sum(-(-800 // s) * -(-1344 // s) for s in (8, 16, 32, 64, 128))
    convs = 9 * 256 * (2 * 4 * 256 + 9 * 80 + 9 * 4)
    assert analysis.complexity.of('bbox_head')[1] == Cost(macs=positions * convs)


def test_errors_give_one_line(capsys, classifier_config, tmp_path):
    status, line = error_line(capsys, TOOL, 'nowhere.py')
    assert status == 2
    assert 'nowhere.py does not exist' in line

    base = tmp_path / 'base.py'
    base.write_text('a = 1\n')
    status, line = error_line(capsys, TOOL, base)
    assert status == 2
    assert 'has no model' in line

    for sides in ('0',), ('8.5',), ('1', '2', '3'):
        status, line = error_line(capsys, TOOL, classifier_config, '--shape', *sides)
        assert status == 2
        assert '--shape' in line

    wrong = 'model.backbone.depth=51'
    status, line = error_line(capsys, TOOL, classifier_config, '--cfg-options', wrong)
    assert status == 2
    assert 'depth=51' in line

    wrong = 'model.head.in_channels=9'
    status, line = error_line(capsys, TOOL, classifier_config, '--cfg-options', wrong)
    assert status == 2
    assert 'no forward pass' in line
