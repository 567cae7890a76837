# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Wrong layouts of data are named before anything is trained."""

import json
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmrla.engine import layout
from mmrla.engine.errors import config_errors
from mmrla.engine.layout import (
    check_image_files,
    check_layout,
    check_same_classes,
    check_samples,
)
from mmrla.errors import UserError

KEY = 'train_dataloader.dataset'
CLASSES = ('cat', 'dog')


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


@pytest.fixture
def imagenet(tmp_path: Path) -> Dict[str, Any]:
    for split in ('train', 'val'):
        for name in CLASSES:
            _image(tmp_path / split / name / '0.JPEG')
    metainfo = dict(classes=CLASSES)
    root = str(tmp_path)
    return dict(type='ImageNet', data_root=root, split='train', metainfo=metainfo)


def test_class_folders(imagenet: Dict[str, Any]) -> None:
    check_layout(imagenet, KEY)
    check_same_classes([(KEY, imagenet), ('val', dict(imagenet, split='val'))])


def _no_split(root: Path) -> None:
    (root / 'train').rename(root / 'training')
    (root / 'ILSVRC2012_img_train.tar').touch()


def _flat(root: Path) -> None:
    for name in CLASSES:
        (root / 'train' / name / '0.JPEG').rename(root / 'train' / f'{name}.JPEG')
        (root / 'train' / name).rmdir()


def _third_class(root: Path) -> None:
    _image(root / 'train' / 'owl' / '0.jpg')


def _empty_class(root: Path) -> None:
    (root / 'train' / 'dog' / '0.JPEG').unlink()


def _bad_list(root: Path) -> None:
    (root / 'meta').mkdir()
    (root / 'meta' / 'train.txt').write_text('cat/0.JPEG\n')


def _list_of_others(root: Path) -> None:
    (root / 'meta').mkdir()
    (root / 'meta' / 'train.txt').write_text('cat/0.JPEG 0\ncat/1.JPEG 0\n')


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_no_split, r'train does not exist; ILSVRC2012_img_train.tar .* unpacked'),
        (_flat, 'train has images where one folder for each class should be'),
        (_third_class, 'train has 3 class folders, the data set has 2 classes'),
        (_empty_class, 'dog has no image; so do 1 of 2 class folders'),
        (_bad_list, r"train.txt has the line 'cat/0.JPEG', which is not"),
        (_list_of_others, r'1.JPEG, from .*train.txt, does not exist'),
    ],
)
def test_wrong_class_folders(
    imagenet: Dict[str, Any], spoil: Callable[[Path], None], message: str
) -> None:
    spoil(Path(imagenet['data_root']))
    with pytest.raises(UserError, match=message):
        check_layout(imagenet, KEY)


def test_imagenet_has_1000_classes(imagenet: Dict[str, Any]) -> None:
    del imagenet['metainfo']
    with pytest.raises(UserError, match='has 2 class folders, the data set has 1000'):
        check_layout(imagenet, KEY)


def test_other_classes_in_val(imagenet: Dict[str, Any]) -> None:
    val = Path(imagenet['data_root'], 'val')
    (val / 'dog').rename(val / 'owl')
    with pytest.raises(UserError, match="only one has 'dog'"):
        check_same_classes([(KEY, imagenet), ('val', dict(imagenet, split='val'))])


def test_cifar_folders(tmp_path: Path) -> None:
    cfg = dict(type='CIFAR10Folders', data_root=str(tmp_path), split='train')
    with pytest.raises(UserError, match='has no cifar-10-batches-py, nor train with'):
        check_layout(cfg, KEY)
    (tmp_path / 'cifar-10-python.tar.gz').touch()
    with pytest.raises(UserError, match='cifar-10-python.tar.gz there is still'):
        check_layout(cfg, KEY)
    base = tmp_path / 'cifar-10-batches-py'
    base.mkdir()
    with pytest.raises(UserError, match='lacks data_batch_1, .*batches.meta; unpack'):
        check_layout(cfg, KEY)
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        (base / name).touch()
    (base / 'batches.meta').touch()
    check_layout(cfg, KEY)
    with pytest.raises(UserError, match=f'; is {tmp_path} meant'):
        check_layout(dict(cfg, data_root=str(base)), KEY)
    _image(tmp_path / 'train' / 'cat' / '0.png')
    check_layout(cfg, KEY)


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


def _build(cfg: Dict[str, Any], scope: str) -> Any:
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(cfg)


def test_samples(tmp_path: Path) -> None:
    cfg = _coco(tmp_path, CLASSES)
    check_samples(_build(cfg, 'mmdet'), KEY)
    repeated = dict(type='RepeatDataset', dataset=cfg, times=2)
    (tmp_path / 'images' / '1.png').unlink()
    with pytest.raises(UserError, match=r'1.png does not exist; 1 of 2 images of'):
        check_samples(_build(repeated, 'mmdet'), KEY)


def test_other_categories(tmp_path: Path) -> None:
    dataset = _build(_coco(tmp_path, ['Cat', 'Dog']), 'mmdet')
    with pytest.raises(UserError, match=r'none of the classes.*Cat, Dog.*cat, dog'):
        check_samples(dataset, KEY)
    check_samples(_build(_coco(tmp_path, ['cat', 'owl']), 'mmdet'), KEY)


def test_nothing_left(tmp_path: Path) -> None:
    cfg = _coco(tmp_path, CLASSES)
    cfg['filter_cfg'] = dict(min_size=100)
    with pytest.raises(UserError, match='x.py: a data set has no image left to use'):
        with config_errors('x.py'):
            _build(cfg, 'mmdet')


def test_files_are_looked_at_only_as_long_as_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = dict(_coco(tmp_path, CLASSES, 4), pipeline=[dict(type='LoadImageFromFile')])
    dataset = _build(cfg, 'mmdet')
    (tmp_path / 'images' / '3.png').write_bytes(b'no image')
    monkeypatch.setattr(layout, '_CHUNK', 2)
    check_image_files(dataset, seconds=0)
    assert 'looked at 0 of 4 image files' in capsys.readouterr().out
    with pytest.raises(UserError, match=r'3.png cannot be read: it is cut off or no'):
        check_image_files(dataset)


def test_only_ends_of_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is whole is not decoded, also with bytes after the image."""
    cfg = dict(_coco(tmp_path, CLASSES, 3), pipeline=[dict(type='LoadImageFromFile')])
    dataset = _build(cfg, 'mmdet')
    jpeg = tmp_path / 'x.jpg'
    _image(jpeg)
    (tmp_path / 'images' / '1.png').write_bytes(jpeg.read_bytes() + bytes(1000))
    monkeypatch.setattr(
        type(dataset.pipeline.transforms[0]), '__call__', lambda *_: pytest.fail('read')
    )
    check_image_files(dataset)
    # Other kinds are.
    Image.open(jpeg).save(tmp_path / 'x.bmp')
    (tmp_path / 'x.bmp').replace(tmp_path / 'images' / '2.png')
    with pytest.raises(pytest.fail.Exception, match='read'):
        check_image_files(dataset)


def test_classes_keep_their_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """mmdet counts the classes that it finds, in the order of the file."""
    cfg = _coco(tmp_path, ['owl', 'cat'])
    cfg['metainfo'] = dict(classes=('cat', 'dog'))
    dataset = _build(cfg, 'mmdet')
    assert dataset.cat2label == {2: 0}
    check_samples(dataset, KEY)  # dog is the last: cat stays 0
    assert 'no category for 1 of 2 classes: dog' in capsys.readouterr().out
    cfg['metainfo'] = dict(classes=('dog', 'cat'))
    dataset = _build(cfg, 'mmdet')
    assert dataset.cat2label == {2: 0}  # dog, as the config has it
    with pytest.raises(UserError, match="class 0 is 'cat', but .* has 'dog' there"):
        check_samples(dataset, KEY)


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
