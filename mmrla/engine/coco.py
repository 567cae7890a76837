# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of annotation files in COCO's format, while pycocotools reads them."""

import json
import math
from contextlib import contextmanager
from typing import Any, Collection, Dict, Iterator, List, Mapping
from unittest import mock

from mmengine.logging import print_log

from ..errors import UserError, one_line

__all__ = ['category_names', 'check_annotations', 'checked_annotations']

#: What mmdet's CocoDataset and CocoMetric read of each entry.
_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}

#: The names of the categories, in their order, of the files that were checked.
_names: Dict[str, List[str]] = {}


@contextmanager
def checked_annotations() -> Iterator[None]:
    """Refuse annotation files that are wrong, as they are read within.

    Such files are large: pycocotools reads them once, and what it has read is
    looked at before it builds its index.

    Raises:
        UserError: As :func:`check_annotations`, or if a file is no JSON.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError:  # no detectors here
        yield
        return
    read, create_index = COCO.__init__, COCO.createIndex

    def checked_read(self: Any, annotation_file: Any = None) -> None:
        self.annotation_file = annotation_file
        try:
            read(self, annotation_file)
        except (ValueError, AssertionError) as error:
            raise UserError(
                f'annotation file {annotation_file} is no JSON file of COCO: '
                f'{one_line(error)}'
            ) from error

    def checked_index(self: Any) -> None:
        path = getattr(self, 'annotation_file', None)
        if path is not None:  # results of a metric come without one
            check_annotations(self.dataset, path)
        create_index(self)

    with mock.patch.multiple(COCO, __init__=checked_read, createIndex=checked_index):
        yield


def category_names(path: str) -> List[str]:
    """The names of an annotation file's categories, in the file's order."""
    if path in _names:
        return _names[path]
    with open(path, encoding='utf-8') as file:
        return [category['name'] for category in json.load(file).get('categories', [])]


def check_annotations(content: Mapping[str, Any], path: str) -> None:
    """Refuse an annotation file that mmdet would stumble over, or misread.

    Boxes that mmdet leaves out by itself (without area, outside of the image, of
    classes that are not asked for) and crowds, which it ignores, are no errors.

    Args:
        content: What is in the file.
        path (str): The file, for the error.

    Raises:
        UserError: An entry lacks what is read of it, has an id or a name for the
            second time, or a size or box that is none.
    """
    for kind in ('images', 'categories'):
        if not isinstance(content.get(kind), list):
            raise UserError(f'annotation file {path} has no list of {kind}')
    # A test set's file has images and categories only.
    annotations = content.get('annotations', [])
    for kind in _KEYS:
        entries = annotations if kind == 'annotations' else content[kind]
        _check_entries(entries, kind, path)
    for image in content['images']:
        for key in ('width', 'height'):
            if not _is_number(image[key]) or image[key] < 1:
                raise UserError(
                    f'annotation file {path}: image {image["id"]!r} has '
                    f'{key}={image[key]!r}, which is no size in pixels'
                )
    for annotation in annotations:
        _check_box(annotation, path)
    names = [category['name'] for category in content['categories']]
    if len(set(names)) != len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UserError(f'annotation file {path} has the category {name!r} twice')
    _names[path] = names
    _warn_of_strangers(content, annotations, path)


def _check_entries(entries: Any, kind: str, path: str) -> None:
    seen = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(
                f'annotation file {path}: entry {number} of {kind} is '
                f'{type(entry).__name__}, not an object with {", ".join(_KEYS[kind])}'
            )
        missing = [key for key in _KEYS[kind] if key not in entry]
        if missing and not entry.get('ignore'):
            raise UserError(
                f'annotation file {path}: entry {number} of {kind} has no '
                f'{missing[0]!r}, only {", ".join(entry) or "nothing"}'
            )
        identity = entry.get('id')
        if not isinstance(identity, (int, float, str)):
            problem = 'is neither a number nor a name'
        elif identity in seen:
            problem = 'is there twice'
        else:
            seen.add(identity)
            continue
        raise UserError(
            f'annotation file {path}: id {identity!r} of {kind} {problem}; give each '
            'entry a number of its own'
        )


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _check_box(annotation: Mapping[str, Any], path: str) -> None:
    if annotation.get('ignore'):
        return
    box, area = annotation['bbox'], annotation['area']
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise UserError(
            f'annotation file {path}: annotation {annotation["id"]!r} has '
            f'bbox={box!r}, not four numbers x, y, width, height'
        )
    if not _is_number(area):
        raise UserError(
            f'annotation file {path}: annotation {annotation["id"]!r} has '
            f'area={area!r}, not a number of pixels'
        )


def _warn_of_strangers(
    content: Mapping[str, Any], annotations: Collection[Mapping], path: str
) -> None:
    for key, kind in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in content[kind]}
        strangers = sum(a.get(key) not in known for a in annotations)
        if strangers:
            print_log(
                f'{path}: {strangers} of {len(annotations)} annotations are of '
                f'{kind} that are not in the file; they are left out',
                level=30,
            )
