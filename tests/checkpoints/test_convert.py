# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Converted files give the released code's outputs and convert back exactly."""

import re
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from mmengine.config import Config

from mmrla import zoo
from mmrla.checkpoints.convert import (
    build_model,
    config_name,
    convert,
    export,
    network_config,
)
from mmrla.checkpoints.names import released_names
from mmrla.checkpoints.released import NETWORKS, PUBLISHED, TOLERANCE
from mmrla.checkpoints.verify import network_of, verify
from mmrla.engine.checkpoint_io import CheckpointError

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
#: All weights are loaded.
pytestmark = pytest.mark.usefixtures('no_init')

LAYOUTS = (
    'rla_resnet50',
    'rla_resnet50_eca',
    'dsrla_mobilenetv2_k32',
    'rla_resnext50_32x4d_se',
    'rlaus_resnet50',
    'rlav2_resnet50',
    'rlav5_resnet50',
    'rlalstm_resnet50',
    'rla_resnet50@residual',
)


def _assert_same(found: Dict[str, Any], expected: Dict[str, Any]) -> None:
    """Equal tensors, by dtype, shape and bytes, under equal names in equal order."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize('name', LAYOUTS)
def test_golden_outputs_and_exact_round_trip(
    released: Any, tmp_path: Path, name: str
) -> None:
    path = released.save(name, tmp_path / 'file.pth.tar')
    converted = convert(path)
    assert converted.network.arch == name
    model = network_of(converted.checkpoint, path)
    report = verify(model, name, released.images(name), released.golden)
    expected = [n for n in released.golden if n == name or n.startswith(f'{name}:')]
    assert sorted(report.differences) == sorted(expected)
    assert max(report.differences.values()) < 1e-5
    original = torch.load(path, weights_only=True)
    back = export(converted.checkpoint).checkpoint
    assert list(back) == [key for key in original if key != 'optimizer']
    _assert_same(back['state_dict'], original['state_dict'])


def test_wrong_wiring_changes_golden_outputs(released: Any, tmp_path: Path) -> None:
    path = released.save('rla_resnet50', tmp_path / 'file.pth.tar')
    converted = convert(path, arch='rla_resnet50@residual')
    model = network_of(converted.checkpoint, path)
    name = 'rla_resnet50'
    report = verify(model, name, released.images(name), released.golden)
    assert report.differences[name] > 1e-3


def test_meta_is_plain_data_with_config_of_network(
    released: Any, tmp_path: Path
) -> None:
    path = released.save('rla_resnet50', tmp_path / 'x.pth.tar', constant=True)
    converted = convert(path)
    torch.save(converted.checkpoint, tmp_path / 'out.pth')
    meta = torch.load(tmp_path / 'out.pth', weights_only=True)['meta']
    assert len(meta['dataset_meta']['classes']) == 1000
    assert meta['published']['file'] == 'resnet50_rla_2283'
    assert len(meta['source']['sha256']) == 64
    cfg = Config.fromstring(meta['cfg'], '.py')
    assert cfg.model.backbone.integration == 'v3'
    # The config of the zoo loads the weights, too.
    file = zoo.root() / 'configs' / converted.config
    model = build_model(Config.fromfile(file))
    model.load_state_dict(converted.checkpoint['state_dict'], strict=True)


# What a file is


@pytest.mark.parametrize(
    ('layout', 'file', 'arch', 'source'),
    [
        ('rla_resnet50', 'x.pth', 'rla_resnet50', 'by names and shapes'),
        ('rlaus_resnet50', 'x.pth', 'rlaus_resnet50', 'by names and shapes'),
        ('rla_resnet50', 'resnet50_rla_2283.pth.tar', 'rla_resnet50', 'by the name'),
        # Of the same names and shapes as the published network, which is meant.
        ('rlav5_resnet50', 'x.pth', 'rla_resnet50', 'by names and shapes'),
    ],
)
def test_files_without_arch(
    released: Any, tmp_path: Path, layout: str, file: str, arch: str, source: str
) -> None:
    torch.save(released.constants(layout), tmp_path / file)
    converted = convert(tmp_path / file)
    assert converted.network.arch == arch
    assert converted.arch_from.startswith(source)
    _assert_same(export(converted.checkpoint).checkpoint, torch.load(tmp_path / file))


def test_unknown_arch_in_file_is_noted(released: Any, tmp_path: Path) -> None:
    path = tmp_path / 'x.pth.tar'
    weights = released.constants('dsrla_mobilenetv2_k32')
    torch.save(dict(arch='mine', state_dict=weights), path)
    converted = convert(path)
    assert converted.network.arch == 'dsrla_mobilenetv2_k32'
    assert "'mine'" in converted.notes[0]


# Detectors


@pytest.mark.parametrize('detector', ['faster_rcnn', 'mask_rcnn', 'retinanet'])
def test_detection_files(released: Any, tmp_path: Path, detector: str) -> None:
    published = next(p for p in PUBLISHED if p.detector == detector)
    path = released.save_detector(detector, tmp_path / f'{published.name}.pth')
    converted = convert(path)
    assert converted.detector == detector
    assert converted.published == published
    # Without the update that nothing reads; it comes back.
    weights = converted.checkpoint['state_dict']
    assert not any('rla.3.norms.2.' in name for name in weights)
    back = export(converted.checkpoint).checkpoint
    _assert_same(back['state_dict'], torch.load(path)['state_dict'])
    model = network_of(converted.checkpoint, path)
    name = 'rla_resnet50'
    report = verify(model, name, released.images(name), released.golden)
    assert len(report.differences) == 4
    assert max(report.differences.values()) < 1e-5


def test_detector_of_other_classes(released: Any, tmp_path: Path) -> None:
    path = released.save_detector('faster_rcnn', tmp_path / 'x.pth', classes=3)
    converted = convert(path)
    assert converted.published is None
    cfg = Config.fromstring(converted.checkpoint['meta']['cfg'], '.py')
    assert cfg.model.roi_head.bbox_head.num_classes == 3


# The way out of a network that was trained here


@pytest.mark.parametrize('layout', ['rla_resnet50', 'dsrla_mobilenetv2_k32'])
def test_export_without_record_uses_published_names(
    released: Any, tmp_path: Path, layout: str
) -> None:
    path = released.save(layout, tmp_path / 'x.pth.tar', constant=True)
    checkpoint = convert(path).checkpoint
    del checkpoint['meta']['released']
    back = export(checkpoint).checkpoint['state_dict']
    original = torch.load(path)['state_dict']
    assert set(back) == set(original)
    assert all(torch.equal(value, original[name]) for name, value in back.items())


def test_export_notes_wiring_of_paper(released: Any, tmp_path: Path) -> None:
    path = released.save('rla_resnet50', tmp_path / 'x.pth.tar', constant=True)
    checkpoint = convert(path, arch='rla_resnet50@residual').checkpoint
    del checkpoint['meta']['released']
    assert "integration='v1'" in export(checkpoint).notes[0]


# What is refused


def _change(weights: Dict[str, Any], how: str) -> None:
    if how == 'missing':
        del weights['stages.1.0.conv2.weight']
    elif how == 'strange':
        weights['stages.1.0.gate.weight'] = torch.zeros(3)
    elif how == 'shape':
        weights['stages.0.0.conv1.weight'] = torch.zeros(64, 95, 1, 1)
    elif how == 'wider':
        weights['stages.0.0.conv1.weight'] = torch.zeros(64, 97, 1, 1)


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('missing', 'stages.1.0.conv2.weight is missing'),
        ('strange', 'stages.1.0.gate.weight has no place'),
        ('shape', r'stages.0.0.conv1.weight is \(64, 95, 1, 1\)'),
        ('wider', r'stages.0.0.conv1.weight is \(64, 97, 1, 1\)'),
    ],
)
def test_misfitting_weights_are_refused(
    released: Any, tmp_path: Path, how: str, message: str
) -> None:
    weights = released.constants('rla_resnet50')
    _change(weights, how)
    torch.save(dict(arch='rla_resnet50', state_dict=weights), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / 'x.pth')


def test_unequal_copies_of_tied_conv_are_refused(released: Any, tmp_path: Path) -> None:
    weights = released.constants('dsrla_mobilenetv2_k32')
    weights['recurrent_dsconvs.3.weight'] = weights['recurrent_dsconvs.3.weight'] + 1
    arch = 'dsrla_mobilenetv2_k32'
    torch.save(dict(arch=arch, state_dict=weights), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='tied, are not equal'):
        convert(tmp_path / 'x.pth')


def test_plain_and_converted_files_are_refused(released: Any, tmp_path: Path) -> None:
    plain = {'conv1.weight': torch.zeros(1), 'layer1.0.conv1.weight': torch.zeros(1)}
    torch.save(plain, tmp_path / 'resnet50.pth')
    with pytest.raises(CheckpointError, match='plain network, which needs no conver'):
        convert(tmp_path / 'resnet50.pth')
    path = released.save('rla_resnet50', tmp_path / 'x.pth.tar', constant=True)
    torch.save(convert(path).checkpoint, tmp_path / 'y.pth')
    with pytest.raises(CheckpointError, match='has the names of mmrla already'):
        convert(tmp_path / 'y.pth')


def test_missing_batch_counters_are_added(released: Any, tmp_path: Path) -> None:
    weights = released.constants('rla_resnet50')
    kept = {n: v for n, v in weights.items() if 'num_batches_tracked' not in n}
    torch.save(dict(arch='rla_resnet50', state_dict=kept), tmp_path / 'x.pth')
    converted = convert(tmp_path / 'x.pth').checkpoint
    assert converted['state_dict']['backbone.bn1.num_batches_tracked'] == 0
    back = export(converted).checkpoint['state_dict']
    _assert_same(back, kept)


# The table


def test_published_table() -> None:
    assert len(PUBLISHED) == 18
    assert len({p.name for p in PUBLISHED}) == len({p.drive for p in PUBLISHED}) == 18
    for published in PUBLISHED:
        # The names of the files say their score.
        figure = published.scores[0][1]
        digits = f'{figure * (10 if published.detector else 100):.0f}'
        assert published.name.endswith(digits), published
        assert all(name in TOLERANCE for name, _ in published.scores)


@pytest.mark.parametrize('name', sorted(NETWORKS))
def test_each_network_has_a_config(name: str) -> None:
    path = zoo.root() / 'configs' / config_name(NETWORKS[name])
    assert path.is_file()


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(NETWORKS))
def test_each_network_has_names_of_its_own(name: str) -> None:
    """Released names and our tensors match one to one."""
    model = build_model(network_config(NETWORKS[name]))
    places = released_names(list(model.state_dict()))
    whole = [n for p in places.values() for n in p.names if p.part == 'all']
    counted = [n for n in whole if not n.endswith('num_batches_tracked')]
    assert len(counted) == len(set(counted))
    left = [n for n in model.state_dict() if n not in places]
    assert all(n.endswith('.wiring') for n in left)


def test_page_lists_published_files() -> None:
    text = (Path(__file__).parents[2] / 'docs/published_weights.md').read_text()
    for published in PUBLISHED:
        row = next(r for r in text.splitlines() if f'[{published.name}]' in r)
        assert published.link in row
        assert published.config in row
        numbers = [float(n) for n in re.findall(r'\d+\.\d+', row.split('|')[3])]
        expected = [value for _, value in published.scores]
        assert numbers[: len(expected)] == expected
