# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tools with pure-Python configs: types are classes, and there is no default scope."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmrla.analysis.networks import (
    analyse,
    build,
    is_detector,
    load_network,
    network_class,
)
from mmrla.engine.config import load_config

from .conftest import call, error_line

DETECTOR = """
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmdet.models import FCOS, FPN, DetDataPreprocessor, FCOSHead
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import DefaultSampler

from mmrla.models import RLAResNet

default_scope = None
model = dict(
    type=FCOS,
    data_preprocessor=dict(type=DetDataPreprocessor, pad_size_divisor=32),
    backbone=dict(type=RLAResNet, depth=50, rla_channels=4, base_channels=8),
    neck=dict(type=FPN, in_channels=[32, 64, 128, 256], out_channels=32, num_outs=4),
    bbox_head=dict(
        # Its losses are texts, in mmdet's own registry.
        type=FCOSHead, num_classes=2, in_channels=32, feat_channels=32,
        stacked_convs=1, strides=[4, 8, 16, 32],
        regress_ranges=((-1, 16), (16, 32), (32, 64), (64, 1e8))),
    test_cfg=dict(
        nms_pre=50, min_bbox_size=0, score_thr=0.0,
        nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(64, 64), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs,
         meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = test_dataloader = val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset, data_root={root!r}, ann_file='annotations/val.json',
        data_prefix=dict(img='val/'), metainfo=dict(classes=('red', 'blue')),
        pipeline=pipeline, test_mode=True))
visualizer = dict(type=DetLocalVisualizer, name='visualizer')
"""

CLASSIFIER = """
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import CustomDataset, PackInputs
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier
from mmpretrain.visualization import UniversalVisualizer
from mmengine.dataset import DefaultSampler

from mmrla.models import RLALinearClsHead, RLANeck, RLAResNet

default_scope = None
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(type=ClsDataPreprocessor, mean=[127.0] * 3, std=[60.0] * 3),
    backbone=dict(
        type=RLAResNet, depth=50, rla_channels=4, base_channels=8, stem_channels=8,
        out_indices=(3,), return_hidden=True),
    neck=dict(type=RLANeck, rla_channels=4),
    head=dict(
        type=RLALinearClsHead, num_classes=2, in_channels=256, rla_channels=4,
        topk=(1,)))
test_dataloader = val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CustomDataset, data_root={root!r}, data_prefix='val',
        pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)]))
visualizer = dict(type=UniversalVisualizer)
"""


def _with_weights(folder, text, **roots):
    """A config and a checkpoint of random weights."""
    config, checkpoint = folder / 'config.py', folder / 'weights.pth'
    config.write_text(text.format(**roots))
    torch.manual_seed(0)
    cfg = load_config(str(config))
    assert cfg.default_scope is None
    meta = dict(dataset_meta=dict(classes=('red', 'blue')))
    torch.save(dict(state_dict=build(cfg).state_dict(), meta=meta), checkpoint)
    return config, checkpoint


@pytest.fixture(scope='module')
def detector(tmp_path_factory, tiny_coco):
    folder = tmp_path_factory.mktemp('detector')
    return _with_weights(folder, DETECTOR, root=str(tiny_coco))


@pytest.fixture(scope='module')
def classifier(tmp_path_factory, tiny_folders):
    folder = tmp_path_factory.mktemp('classifier')
    return _with_weights(folder, CLASSIFIER, root=str(tiny_folders))


@pytest.mark.parametrize(
    'kind, shape', [('detector', (64, 64)), ('classifier', (224, 224))]
)
def test_task_of_model_class(request, kind, shape):
    config, _ = request.getfixturevalue(kind)
    cfg = load_config(str(config))
    assert is_detector(network_class(cfg)) == (kind == 'detector')
    model = build(cfg)
    assert type(model) is network_class(cfg)
    assert is_detector(model) == (kind == 'detector')
    analysis = analyse(cfg)
    assert analysis.shape == shape
    params = sum(p.numel() for p in model.parameters())
    assert analysis.complexity.of()[0] == params
    assert analysis.complexity.of()[1].macs > 0
    assert len(analysis.shares) >= 4


def test_type_names_without_scope(detector_config, tmp_path):
    """Types name their library."""
    cfg = load_config(str(detector_config))
    assert is_detector(network_class(cfg))
    cfg.default_scope = None
    cfg.model.type = 'mmdet.FasterRCNN'
    assert network_class(cfg).__name__ == 'FasterRCNN'
    cfg.model.type = 'mmdet.models.FasterRCNN'
    assert is_detector(network_class(cfg))


def test_get_flops(capsys, detector):
    call('analysis_tools/get_flops', detector[0], '--format', 'json')
    result = json.loads(capsys.readouterr().out)
    assert result['shape'] == [64, 64]
    assert result['uncounted'] == []


@pytest.mark.parametrize('kind', ['detector', 'classifier'])
def test_browse_dataset(request, tmp_path, kind):
    config, _ = request.getfixturevalue(kind)
    options = ['--part', 'val', '--output-dir', tmp_path, '--number', 2]
    call('analysis_tools/browse_dataset', config, *options)
    assert len(list(tmp_path.glob('*.jpg'))) == 2


@pytest.mark.parametrize('kind', ['detector', 'classifier'])
def test_figures(request, capsys, tmp_path, tiny_coco, kind):
    for package in ('matplotlib', 'pytorch_grad_cam'):
        pytest.importorskip(package)
    pair, image = request.getfixturevalue(kind), tiny_coco / 'val/000.png'
    tool, options = 'analysis_tools/visualize_cam', ['--out', tmp_path / 'cam']
    if kind == 'detector':
        call('analysis_tools/visualize_rla', *pair, image, '--out-dir', tmp_path)
        assert (tmp_path / 'reading.csv').is_file()
        status, line = error_line(capsys, tool, image, *pair, *options)
        assert status == 2
        assert 'FCOS' in line
        assert 'without gradients' in line
    else:
        call(tool, image, *pair, *options)
        assert (tmp_path / 'cam.csv').is_file()


def test_benchmark_refuses_mixed_tasks(capsys, detector, classifier):
    tool = 'analysis_tools/benchmark'
    status, line = error_line(capsys, tool, detector[0], classifier[0])
    assert status == 2
    assert 'cannot be compared' in line


def test_benchmark_of_a_detector(capsys, tmp_path, detector):
    """Writes the results and a figure, and few lines to a log."""
    options = ['--shape', 64, 64, '--batch-size', 1, '--rounds', 20, '--warmup', 0]
    tool = 'analysis_tools/benchmark'
    call(tool, detector[0], *options, '--out', tmp_path / 'out')
    files = {path.name for path in (tmp_path / 'out').iterdir()}
    assert files == {f'benchmark.{kind}' for kind in ('json', 'png', 'svg', 'csv')}
    record = json.loads((tmp_path / 'out/benchmark.json').read_text())
    assert record['form']['shape'] == [64, 64]
    assert [result['ratio'] for result in record['results']] == [1.0]
    assert capsys.readouterr().err.count('rounds timed') <= 10


@pytest.mark.parametrize('kind', ['detector', 'classifier'])
def test_extract_features(request, tmp_path, tiny_coco, kind):
    config, checkpoint = request.getfixturevalue(kind)
    image, options = tiny_coco / 'val/000.png', ['--device', 'cpu', '--config', config]
    out = ['--out-dir', tmp_path]
    args = checkpoint, image, *options, *out
    call('extract_features', *args, folder='demo')
    _, model = load_network(str(config), str(checkpoint))
    with np.load(tmp_path / '000.npz') as features:
        assert features['stage3'].shape == (256, 2, 2)
        assert ('vector' in features) == (kind == 'classifier')


def test_detect_video(capsys, tmp_path, tiny_coco, detector):
    path = tmp_path / 'in.avi'
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 64))
    video.write(cv2.imread(str(tiny_coco / 'val/000.png')))
    video.release()
    config, checkpoint = detector
    options = ['--config', config, '--device', 'cpu', '--score-thr', 0]
    out = tmp_path / 'out.mp4'
    call('detect_video', checkpoint, path, out, *options, folder='demo')
    assert f'written: {out}' in capsys.readouterr().out
