# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Data sets as built: folders of classes, files of COCO, what is read of images."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmrla.engine import data
from mmrla.engine.data import check_data, check_same_folders
from mmrla.engine.layout import build_dataset
from mmrla.errors import UserError

KEY = 'train_dataloader.dataset'
CLASSES = ('cat', 'dog')


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


@pytest.fixture
def imagenet(tmp_path: Path) -> Dict[str, Any]:
    pytest.importorskip('mmpretrain')
    for split in ('train', 'val'):
        for name in CLASSES:
            _image(tmp_path / split / name / '0.JPEG')
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
    _image(root / 'train' / 'owl' / '0.jpg')


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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """What is logged."""
    lines: List[str] = []
    monkeypatch.setattr(data, 'print_log', lambda text, *_, **__: lines.append(text))
    return lines


def _coco(root: Path, categories: Any, images: int = 2) -> Dict[str, Any]:
    infos = [dict(id=i, file_name=f'{i}.png', height=8, width=8) for i in range(images)]
    boxes = [
        dict(
            id=i + 1,
            image_id=i,
            category_id=1,
            bbox=[1, 1, 4, 4],
            area=16,
            iscrowd=0,
            segmentation=[],
        )
        for i in range(images)
    ]
    cats = [dict(id=i + 1, name=name) for i, name in enumerate(categories)]
    text = json.dumps(dict(images=infos, annotations=boxes, categories=cats))
    (root / 'ann.json').write_text(text)
    for info in infos:
        _image(root / 'images' / str(info['file_name']))
    return dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='ann.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )


def _build_coco(cfg: Dict[str, Any]) -> Any:
    pytest.importorskip('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg)


def test_time_limit_on_reading_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: List[str]
) -> None:
    cfg = dict(_coco(tmp_path, CLASSES, 4), pipeline=[dict(type='LoadImageFromFile')])
    dataset = _build_coco(cfg)
    (tmp_path / 'images' / '3.png').write_bytes(b'no image')
    monkeypatch.setattr(data, '_CHUNK', 2)
    data.check_data(dataset, KEY, seconds=0)
    assert 'looked at files of 0 of 4 images' in ' '.join(told)
    with pytest.raises(UserError, match=r'3.png cannot be read: it is cut off or no'):
        data.check_data(dataset, KEY)


def test_only_file_ends_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole images are not decoded, even with trailing bytes."""
    cfg = dict(_coco(tmp_path, CLASSES, 3), pipeline=[dict(type='LoadImageFromFile')])
    dataset = _build_coco(cfg)
    jpeg = tmp_path / 'x.jpg'
    _image(jpeg)
    (tmp_path / 'images' / '1.png').write_bytes(jpeg.read_bytes() + bytes(1000))
    monkeypatch.setattr(
        type(dataset.pipeline.transforms[0]), '__call__', lambda *_: pytest.fail('read')
    )
    data.check_data(dataset, KEY)
    # Other kinds are.
    Image.open(jpeg).save(tmp_path / 'x.bmp')
    (tmp_path / 'x.bmp').replace(tmp_path / 'images' / '2.png')
    with pytest.raises(pytest.fail.Exception, match='read'):
        data.check_data(dataset, KEY)


def test_class_numbers_of_missing_categories(tmp_path: Path, told: List[str]) -> None:
    """mmdet numbers the classes that it finds, in the order of the file."""
    cfg = _coco(tmp_path, ['owl', 'cat'])
    cfg['metainfo'] = dict(classes=('cat', 'dog'))
    dataset = _build_coco(cfg)
    assert dataset.cat2label == {2: 0}
    data.check_data(dataset, KEY)  # dog is the last: cat stays 0
    assert 'has none of 1 of the 2 classes' in ' '.join(told)
    cfg['metainfo'] = dict(classes=('dog', 'cat'))
    dataset = _build_coco(cfg)
    assert dataset.cat2label == {2: 0}  # dog, as the config has it
    with pytest.raises(UserError, match="class 0 is 'cat', but .* has 'dog' there"):
        data.check_data(dataset, KEY)
