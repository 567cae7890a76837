# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Valid annotation files pass; invalid ones are in test_bad_inputs.py."""

import copy
import json
from pathlib import Path
from typing import Any, Dict

import pytest

from mmrla.engine.coco import check_annotations, check_scored, drop_counts, read
from mmrla.errors import UserError

COCO = pytest.importorskip('pycocotools.coco').COCO
CONTENT: Dict[str, Any] = dict(
    images=[dict(id=7, file_name='7.jpg', width=4, height=3.0)],
    annotations=[dict(id=1, image_id=7, category_id=2, bbox=[0, 0, 1.5, 2], area=3)],
    categories=[dict(id=2, name='owl'), dict(id=1, name='cat')],
)


def test_good_file_passes() -> None:
    check_annotations(CONTENT, 'a.json')


def test_file_without_annotations_passes() -> None:
    content = {k: v for k, v in CONTENT.items() if k != 'annotations'}
    check_annotations(content, 'a.json')


def test_ignored_objects_need_no_box() -> None:
    content = copy.deepcopy(CONTENT)
    content['annotations'][0] = dict(id=1, image_id=7, category_id=2, ignore=1)
    check_annotations(content, 'a.json')


@pytest.mark.parametrize(
    'key, kind', [('image_id', 'images'), ('category_id', 'categories')]
)
def test_unknown_ids_are_reported(
    key: str, kind: str, capsys: pytest.CaptureFixture
) -> None:
    content = copy.deepcopy(CONTENT)
    content['annotations'][0][key] = 99
    check_annotations(content, 'a.json')
    out = capsys.readouterr().out
    assert f'a.json: 1 of 1 annotations are of {kind} that are not in the file' in out


def test_read_through_backend(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(CONTENT))
    assert read(str(path), dict(backend='local')) == CONTENT
    path.write_text('[]')
    with pytest.raises(UserError, match=r'a.json is no JSON file .* list'):
        read(str(path))


def test_drop_counts() -> None:
    content = copy.deepcopy(CONTENT)
    box = content['annotations'][0]
    changes: Any = [
        {},
        dict(bbox=[0, 0, 0.9, 2]),
        dict(bbox=[4, 0, 2, 2]),
        dict(area=0),
        dict(category_id=1),
        dict(ignore=1),
    ]
    content['annotations'] = [dict(box, **change) for change in changes]
    assert drop_counts(content, ['owl']) == {
        'narrower than a pixel': 1,
        'outside of the image': 1,
        'without an area': 1,
        'of other classes': 1,
        'marked ignore': 1,
    }


@pytest.mark.parametrize(
    ('segmentation', 'good'),
    [
        ([[0, 0, 2, 0, 2, 2]], True),
        ([[0, 0, 2, 2]], False),
        (dict(size=[3, 4], counts=[2, 4, 6]), True),
        (dict(size=[4, 4], counts=[2, 4, 10]), False),
        ([[0, 0]], False),
        ([], False),
        (None, False),
    ],
)
def test_scorable_masks(segmentation: Any, good: bool) -> None:
    api = COCO()
    api.dataset = copy.deepcopy(CONTENT)
    api.dataset['annotations'][0].update(iscrowd=0, segmentation=segmentation)
    api.createIndex()
    check_scored(api, [7], False, 'a.json')
    if good:
        check_scored(api, [7], True, 'a.json')
    else:
        with pytest.raises(UserError, match='annotation 1: its segmentation'):
            check_scored(api, [7], True, 'a.json')
    check_scored(api, [8], True, 'a.json')  # it is of an image that is not scored
