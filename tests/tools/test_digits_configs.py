# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Users' configs that inherit the digits', on data with boxes alone."""

import json
import shutil

import pytest
from mmengine.config import Config

from .conftest import REPO, call, metrics

CONFIGS = REPO / 'configs/digits'


@pytest.fixture(scope='module')
def boxes(tmp_path_factory, tiny_coco):
    """The tiny data set without a single mask."""
    root = tmp_path_factory.mktemp('boxes') / 'data'
    shutil.copytree(tiny_coco, root)
    for path in (root / 'annotations').glob('*.json'):
        content = json.loads(path.read_text())
        for annotation in content['annotations']:
            del annotation['segmentation']
        path.write_text(json.dumps(content))
    return root


USER = """
_base_ = {base!r}
metainfo = dict(classes=('red', 'blue'))
data_root = {root!r}
train_dataloader = dict(dataset=dict(
    data_root=data_root, ann_file='annotations/train.json', metainfo=metainfo))
val_dataloader = dict(dataset=dict(
    data_root=data_root, ann_file='annotations/val.json', metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/annotations/val.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2)
param_scheduler = None
model = dict({classes})
"""
CLASSES = {
    'faster-rcnn': 'roi_head=dict(bbox_head=dict(num_classes=2))',
    'retinanet': 'bbox_head=dict(num_classes=2)',
}


@pytest.mark.slow
@pytest.mark.parametrize('detector', CLASSES)
def test_digits_configs_without_masks(tmp_path, boxes, detector):
    name = f'{detector}_rla-r50-thin_fpn_1xb4-12e_hard-digits.py'
    config = tmp_path / 'user.py'
    text = USER.format(
        base=str(CONFIGS / name), root=str(boxes), classes=CLASSES[detector]
    )
    config.write_text(text)
    cfg = Config.fromfile(config)
    assert cfg.model.backbone.rla_channels == 8
    work_dir = tmp_path / 'work'
    call('train', config, '--work-dir', work_dir)
    checkpoint = work_dir / 'epoch_2.pth'
    call('test', config, checkpoint, '--work-dir', tmp_path / 'test')
    found = metrics(tmp_path / 'test')
    assert 0 <= found['coco/bbox_mAP'] <= 1
    assert not any('segm' in name for name in found)
