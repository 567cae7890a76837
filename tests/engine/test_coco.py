# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Annotation files that are right stay so; wrong ones are in test_bad_inputs.py."""

import copy
import json
from pathlib import Path
from typing import Any, Dict

import pytest

from mmrla.engine.coco import category_names, check_annotations, checked_annotations
from mmrla.errors import UserError

COCO = pytest.importorskip('pycocotools.coco').COCO
CONTENT: Dict[str, Any] = dict(
    images=[dict(id=7, file_name='7.jpg', width=4, height=3.0)],
    annotations=[dict(id=1, image_id=7, category_id=2, bbox=[0, 0, 1.5, 2], area=3)],
    categories=[dict(id=2, name='owl'), dict(id=1, name='cat')],
)


def test_a_good_file() -> None:
    check_annotations(CONTENT, 'a.json')


def test_a_test_sets_file_has_no_annotations() -> None:
    content = {k: v for k, v in CONTENT.items() if k != 'annotations'}
    check_annotations(content, 'a.json')


def test_what_mmdet_ignores_needs_no_box() -> None:
    content = copy.deepcopy(CONTENT)
    content['annotations'][0] = dict(id=1, image_id=7, category_id=2, ignore=1)
    check_annotations(content, 'a.json')


@pytest.mark.parametrize(
    'key, kind', [('image_id', 'images'), ('category_id', 'categories')]
)
def test_strangers_are_told(key: str, kind: str, capsys: pytest.CaptureFixture) -> None:
    content = copy.deepcopy(CONTENT)
    content['annotations'][0][key] = 99
    check_annotations(content, 'a.json')
    out = capsys.readouterr().out
    assert f'a.json: 1 of 1 annotations are of {kind} that are not in the file' in out


def test_files_are_checked_where_pycocotools_reads_them(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    content = copy.deepcopy(CONTENT)
    content['annotations'] *= 2
    path.write_text(json.dumps(content))
    originals = COCO.__init__, COCO.createIndex
    assert len(COCO(str(path)).anns) == 1  # one of the two is lost
    with pytest.raises(UserError, match='a.json: id 1 of annotations is there twice'):
        with checked_annotations():
            COCO(str(path))
    with checked_annotations():
        assert COCO().dataset == {}  # as for the results of a metric
    assert originals == (COCO.__init__, COCO.createIndex)


def test_names_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(CONTENT))
    assert category_names(str(path)) == ['owl', 'cat']
    with checked_annotations():
        COCO(str(path))
    path.unlink()
    assert category_names(str(path)) == ['owl', 'cat']  # the file is not read again
