# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tools that show configs and data."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from .conftest import REPO, call, error_line, isolated, load_tool

RLA_CIFAR = REPO / 'configs/cifar/rla-resnet164_1xb128_cifar10.py'


def test_print_config(capsys, tmp_path):
    call('misc/print_config', RLA_CIFAR, '--cfg-options', 'model.backbone.depth=29')
    text = capsys.readouterr().out
    assert 'mmpretrain::' not in text  # whole, not inherited
    path = tmp_path / 'config.py'
    path.write_text(text)
    expected = Config.fromfile(RLA_CIFAR)
    expected.model.backbone.depth = 29
    assert Config.fromfile(path).to_dict() == expected.to_dict()


def test_print_config_errors(capsys):
    status, line = error_line(capsys, 'misc/print_config', 'configs/none.py')
    assert status == 2
    assert 'configs/none.py does not exist' in line


def test_check_data(capsys, detector_config, classifier_config, tiny_coco):
    call('misc/check_data', detector_config)
    out = capsys.readouterr().out
    assert f'train: 8 images, 2 classes, from {tiny_coco}' in out
    assert f'val: 5 images, 2 classes, from {tiny_coco}' in out
    call('misc/check_data', classifier_config, '--parts', 'val')
    out = capsys.readouterr().out
    assert 'val: 6 images, 2 classes' in out
    assert 'train' not in out


def test_missing_image(capsys, tmp_path, detector_config, tiny_coco):
    """In training; test_bad_inputs.py has the check of data."""
    root = tmp_path / 'coco'
    shutil.copytree(tiny_coco, root)
    (root / 'train' / '003.png').unlink()
    options = [
        f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val')
    ]
    args = detector_config, '--work-dir', tmp_path / 'work', '--cfg-options', *options
    status, line = error_line(capsys, 'train', *args)
    assert status == 2
    assert '003.png does not exist; 1 of 8 images of' in line


def test_other_folders_in_val(capsys, tmp_path, classifier_config, tiny_folders):
    root = tmp_path / 'folders'
    shutil.copytree(tiny_folders, root)
    (root / 'val' / 'dark').rename(root / 'val' / 'black')
    options = [
        f'{part}_dataloader.dataset.data_root={root}'
        for part in ('train', 'val', 'test')
    ]
    args = classifier_config, '--work-dir', tmp_path / 'work', '--cfg-options'
    status, line = error_line(capsys, 'train', *args, *options)
    assert status == 2
    assert "do not have the same class folders: only one has 'black'" in line


def test_missing_cifar(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, line = error_line(capsys, 'train', RLA_CIFAR)
    assert status == 2
    assert 'data root data/cifar10 does not exist' in line
    (tmp_path / 'data/cifar10').mkdir(parents=True)
    status, line = error_line(capsys, 'train', RLA_CIFAR)
    assert 'has no cifar-10-batches-py, nor train with class folders' in line


def test_browse_detection(tmp_path, detector_config):
    out = tmp_path / 'pictures'
    tool = 'analysis_tools/browse_dataset'
    call(tool, detector_config, '--output-dir', out, '--number', '2')
    pictures = sorted(out.glob('*.jpg'))
    # The first of eight and the last.
    assert [p.name[:2] for p in pictures] == ['0_', '7_']
    with Image.open(pictures[0]) as picture:
        assert picture.size == (64, 64)


def test_browse_fold_of_classification_data(tmp_path, classifier_config):
    """Upstream's tool refuses wrapped data sets."""
    cfg = Config.fromfile(classifier_config)
    cfg.train_dataloader.dataset = dict(
        type='KFoldDataset', num_splits=2, dataset=cfg.train_dataloader.dataset
    )
    path = tmp_path / 'fold.py'
    cfg.dump(path)
    out = tmp_path / 'pictures'
    call('analysis_tools/browse_dataset', path, '--output-dir', out, '--number', '0')
    assert len(list(out.glob('*.jpg'))) == 4


def test_browse_multi_branch_data(capsys, tmp_path, tiny_coco):
    """SoftTeacher's data: labelled images, and two views of unlabelled ones."""
    name = 'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco'
    path = tmp_path / 'config.py'
    path.write_text(f"_base_ = 'mmdet::soft_teacher/{name}.py'\n")
    cfg = Config.fromfile(path)
    for dataset in cfg.train_dataloader.dataset.datasets:
        dataset.update(
            data_root=str(tiny_coco),
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=('red', 'blue')),
        )
    cfg.dump(path)
    out = tmp_path / 'pictures'
    tool = 'analysis_tools/browse_dataset'
    call(tool, path, '--output-dir', out, '--number', '4')
    names = sorted(p.name for p in out.glob('*.jpg'))
    # Of 8 + 8 images the 1st, 6th, 11th and 16th.
    assert names == [
        '00_000_sup.jpg',
        '05_005_sup.jpg',
        *(f'10_002_{view}.jpg' for view in ('unsup_student', 'unsup_teacher')),
        *(f'15_007_{view}.jpg' for view in ('unsup_student', 'unsup_teacher')),
    ]
    assert '6 pictures in' in capsys.readouterr().out
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert np.asarray(picture).std() > 5, path


def test_browse_needs_output(capsys, detector_config):
    status, line = error_line(capsys, 'analysis_tools/browse_dataset', detector_config)
    assert status == 2
    assert '--output-dir FOLDER or --show' in line


def test_learning_rate_plot(tmp_path, detector_config, monkeypatch):
    """Works for mmdet's configs, and leaves no work_dir."""
    picture = tmp_path / 'lr.png'
    options = ['--dataset-size', '8', '--save-path', str(picture), '--not-show']
    monkeypatch.setattr(sys, 'argv', ['vis_scheduler', str(detector_config), *options])
    monkeypatch.chdir(tmp_path)
    with isolated():
        load_tool('analysis_tools/vis_scheduler').main()
    files = sorted(p.name for p in Path(tmp_path).iterdir())
    assert files == ['lr.csv', 'lr.png', 'lr.svg']
    # Warm-up from a tenth over the first of four iterations; two epochs of four.
    rows = (tmp_path / 'lr.csv').read_text().splitlines()
    assert rows[0] == 'epoch,lr'
    values = [tuple(map(float, row.split(','))) for row in rows[1:]]
    assert [time for time, _ in values] == [i / 4 for i in range(8)]
    assert [lr for _, lr in values[:2]] == pytest.approx([0.001, 0.004])
    assert [lr for _, lr in values[3:]] == pytest.approx([0.01] * 5)
