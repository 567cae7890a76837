# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""COCO data sets as built: numbers of classes, what is read of images."""

import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmrla.engine import data
from mmrla.errors import UserError

from ..conftest import write_image

KEY = 'train_dataloader.dataset'
CLASSES = ('cat', 'dog')


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
        write_image(root / 'images' / str(info['file_name']))
    return dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='ann.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=CLASSES),
        pipeline=[],
    )


def _build(cfg: Dict[str, Any]) -> Any:
    pytest.importorskip('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg)


def test_time_limit_on_reading_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: List[str]
) -> None:
    cfg = dict(_coco(tmp_path, CLASSES, 4), pipeline=[dict(type='LoadImageFromFile')])
    dataset = _build(cfg)
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
    dataset = _build(cfg)
    jpeg = tmp_path / 'x.jpg'
    write_image(jpeg)
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
    dataset = _build(cfg)
    assert dataset.cat2label == {2: 0}
    data.check_data(dataset, KEY)  # dog is the last: cat stays 0
    assert 'has none of 1 of the 2 classes' in ' '.join(told)
    cfg['metainfo'] = dict(classes=('dog', 'cat'))
    dataset = _build(cfg)
    assert dataset.cat2label == {2: 0}  # dog, as the config has it
    with pytest.raises(UserError, match="class 0 is 'cat', but .* has 'dog' there"):
        data.check_data(dataset, KEY)
