# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Folders of classes: wrong layouts are named before anything is trained."""

from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmrla.engine.data import check_data, check_same_folders
from mmrla.engine.layout import build_dataset
from mmrla.errors import UserError

from ..conftest import write_image

KEY = 'train_dataloader.dataset'
CLASSES = ('cat', 'dog')


@pytest.fixture
def imagenet(tmp_path: Path) -> Dict[str, Any]:
    pytest.importorskip('mmpretrain')
    for split in ('train', 'val'):
        for name in CLASSES:
            write_image(tmp_path / split / name / '0.JPEG')
    metainfo = dict(classes=CLASSES)
    root = str(tmp_path)
    return dict(type='ImageNet', data_root=root, split='train', metainfo=metainfo)


def _build(cfg: Dict[str, Any]) -> Any:
    whole = dict(default_scope='mmpretrain', train_dataloader=dict(dataset=cfg))
    return build_dataset(Config(whole), 'train')


def test_class_folders(imagenet: Dict[str, Any]) -> None:
    train, val = _build(imagenet), _build(dict(imagenet, split='val'))
    check_same_folders([(KEY, train), ('val', val)])
    (Path(imagenet['data_root']) / 'val' / 'dog').rename(
        Path(imagenet['data_root']) / 'val' / 'owl'
    )
    with pytest.raises(UserError, match="only one has 'dog'"):
        check_same_folders([(KEY, train), ('val', _build(dict(imagenet, split='val')))])


def _no_split(root: Path) -> None:
    (root / 'train').rename(root / 'training')
    (root / 'ILSVRC2012_img_train.tar').touch()


def _flat(root: Path) -> None:
    for name in CLASSES:
        (root / 'train' / name / '0.JPEG').rename(root / 'train' / f'{name}.JPEG')
        (root / 'train' / name).rmdir()


def _third_class(root: Path) -> None:
    write_image(root / 'train' / 'owl' / '0.jpg')


def _bad_list(root: Path) -> None:
    (root / 'meta').mkdir()
    (root / 'meta' / 'train.txt').write_text('cat/0.JPEG 0\ncat/0.JPEG\n')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_no_split, r'train does not exist; ILSVRC2012_img_train.tar .* unpacked'),
        (_flat, 'train has images where one folder for each class should be'),
        (_third_class, 'train has 3 class folders, the data set has 2 classes'),
        (_bad_list, r"train.txt has the line 'cat/0.JPEG', which is not"),
    ],
)
def test_wrong_class_folders(
    imagenet: Dict[str, Any], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(Path(imagenet['data_root']))
    with pytest.raises(UserError, match=message):
        _build(imagenet)


def test_empty_class(imagenet: Dict[str, Any]) -> None:
    Path(imagenet['data_root'], 'train', 'dog', '0.JPEG').unlink()
    with pytest.raises(UserError, match='dog has no image; it is one of 2'):
        check_data(_build(imagenet), KEY)


def test_imagenet_has_1000_classes(imagenet: Dict[str, Any]) -> None:
    del imagenet['metainfo']
    with pytest.raises(UserError, match='has 2 class folders, the data set has 1000'):
        _build(imagenet)


def test_cifar_folders(tmp_path: Path) -> None:
    pytest.importorskip('mmpretrain')
    split = dict(data_root=str(tmp_path), split='train', download=False)
    cfg: Dict[str, Any] = dict(split, type='CIFAR10Folders')
    with pytest.raises(UserError, match='has no cifar-10-batches-py, nor train with'):
        _build(cfg)
    (tmp_path / 'cifar-10-python.tar.gz').touch()
    with pytest.raises(UserError, match='cifar-10-python.tar.gz there is still'):
        _build(cfg)
    base = tmp_path / 'cifar-10-batches-py'
    base.mkdir()
    with pytest.raises(UserError, match='lacks data_batch_1, .*batches.meta; unpack'):
        _build(cfg)
    with pytest.raises(UserError, match=f'; is {tmp_path} meant'):
        _build(dict(cfg, data_root=str(base)))


def test_cifar_from_folders(tmp_path: Path) -> None:
    pytest.importorskip('mmpretrain')
    from mmrla.datasets.cifar import CIFAR10Folders

    names = CIFAR10Folders.METAINFO['classes']
    color = np.zeros((32, 32, 3), np.uint8)
    color[..., 0] = 200  # red: RGB is what mmpretrain's CIFAR10 gives
    for name in names:
        path = tmp_path / 'train' / name / '0.png'
        path.parent.mkdir(parents=True)
        Image.fromarray(color).save(path)
    cfg = dict(data_root=str(tmp_path), split='train', download=False, pipeline=[])
    dataset = CIFAR10Folders(**cfg)
    assert len(dataset) == 10
    assert [d['gt_label'] for d in (dataset[i] for i in range(10))] == list(range(10))
    np.testing.assert_array_equal(dataset[3]['img'], color)

    (tmp_path / 'train' / 'cat' / '0.png').unlink()
    with pytest.raises(ValueError, match='cat has no .jpg'):
        CIFAR10Folders(**cfg)
    (tmp_path / 'train' / 'cat').rename(tmp_path / 'train' / 'Cat')
    with pytest.raises(ValueError, match=r"missing \['cat'\], not a class \['Cat'\]"):
        CIFAR10Folders(**cfg)


def test_cifar_from_python_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('mmpretrain')
    import pickle

    from mmrla.datasets.cifar import CIFAR100Folders

    monkeypatch.setattr(CIFAR100Folders, '_check_integrity', lambda self: True)
    base = tmp_path / 'cifar-100-python'
    base.mkdir()
    data = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    content = dict(data=data, fine_labels=[7, 99])
    (base / 'train').write_bytes(pickle.dumps(content))
    dataset = CIFAR100Folders(
        data_root=str(tmp_path), split='train', download=False, pipeline=[]
    )
    assert [dataset[i]['gt_label'] for i in range(2)] == [7, 99]
    assert dataset[0]['img'].shape == (32, 32, 3)
