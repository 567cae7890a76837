# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of annotation files in COCO's format."""

import json
import math
from collections import Counter
from contextlib import contextmanager
from typing import Any, Collection, Dict, Iterator, Mapping, Optional

from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..errors import UserError, one_line

__all__ = ['check_annotations', 'check_scored', 'drop_counts', 'read', 'remembered']

#: Fields that mmdet's CocoDataset and CocoMetric read.
_KEYS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


#: What data sets have read, by path, while :func:`remembered` holds.
_remembered: Dict[str, Dict[str, Any]] = {}


@contextmanager
def remembered() -> Iterator[None]:
    """Spare :func:`read` the files that mmdet's data sets are built from meanwhile.

    COCO's own takes 20 seconds to be read, and mmdet drops it when it is built.
    """
    try:
        from mmdet.datasets import CocoDataset
    except ImportError:
        yield
        return
    original = CocoDataset.COCOAPI

    def load(path: str) -> Any:
        api = original(path)
        _remembered[path] = api.dataset
        return api

    CocoDataset.COCOAPI = staticmethod(load)
    try:
        yield
    finally:
        CocoDataset.COCOAPI = original
        _remembered.clear()


def read(path: str, backend_args: Optional[dict] = None) -> Dict[str, Any]:
    """What is in an annotation file, through the file backend of its user.

    Args:
        path (str): The file.
        backend_args (dict, optional): As of MMEngine's ``get_local_path``.

    Raises:
        UserError: The file is no JSON file of COCO.
    """
    if path in _remembered:
        return _remembered[path]
    try:
        with get_local_path(path, backend_args=backend_args) as local:
            with open(local, encoding='utf-8') as file:
                content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError(f'it holds a {type(content).__name__}')
    except ValueError as error:
        raise UserError(
            f'annotation file {path} is no JSON file of COCO: {one_line(error)}'
        ) from error
    return content


def check_annotations(content: Mapping[str, Any], path: str) -> None:
    """Refuse an annotation file that mmdet would fail on or misread.

    Boxes that mmdet drops itself (without area, outside the image, of unused classes)
    and crowds, which it ignores, are no errors.

    Args:
        content: What is in the file.
        path (str): The file, for the error.

    Raises:
        UserError: An entry lacks a field, repeats an id or name, or has an invalid
            size or box.
    """
    for kind in ('images', 'categories'):
        if not isinstance(content.get(kind), list):
            raise UserError(f'annotation file {path} has no list of {kind}')
    # A test set's file may have only images and categories.
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
        if missing == ['file_name'] and 'coco_url' in entry:  # as LVIS has it
            missing = []
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


def drop_counts(content: Mapping[str, Any], names: Collection[str]) -> Counter:
    """Number of annotations that mmdet's CocoDataset drops, by reason.

    Args:
        content: What is in a file that :func:`check_annotations` passes.
        names: The classes that are asked for.
    """
    sizes = {image['id']: image for image in content['images']}
    wanted = {c['id'] for c in content['categories'] if c['name'] in names}
    counts: Counter = Counter()
    for annotation in content.get('annotations', []):
        image = sizes.get(annotation.get('image_id'))
        if annotation.get('ignore'):
            counts['marked ignore'] += 1
        elif annotation['category_id'] not in wanted:
            counts['of other classes'] += 1
        elif image is not None:
            x, y, w, h = annotation['bbox']
            if w < 1 or h < 1:
                counts['narrower than a pixel'] += 1
            elif annotation['area'] <= 0:
                counts['without an area'] += 1
            elif min(x + w, image['width']) <= max(x, 0) or (
                min(y + h, image['height']) <= max(y, 0)
            ):
                counts['outside of the image'] += 1
    return counts


def check_scored(api: Any, ids: Collection[Any], masks: bool, source: str) -> None:
    """Refuse annotations that COCOeval would fail on or score wrongly.

    Args:
        api: pycocotools' COCO, or LVIS.
        ids: The images to be scored.
        masks (bool): Whether masks are scored too.
        source (str): Whose annotations they are, for the error.

    Raises:
        UserError: With the first of them.
    """
    is_lvis = not hasattr(api, 'annToRLE')
    to_rle = api.ann_to_rle if is_lvis else api.annToRLE
    needed = ('area',) if is_lvis else ('iscrowd', 'area')
    if not is_lvis and 0 in api.anns:
        print_log(
            f"{source} has an annotation of id 0, which COCO's scores never take for "
            'found; number them from 1',
            'current',
            level=30,
        )
    for annotation in api.anns.values():
        if annotation['image_id'] not in ids:
            continue
        where = f'{source}: annotation {annotation["id"]!r}'
        missing = [key for key in needed if key not in annotation]
        if missing:
            raise UserError(
                f"{where} has no {missing[0]!r}, which COCO's scores need; add it to "
                "each annotation ('iscrowd': 0 for a single object)"
            )
        if not masks:
            continue
        image = api.imgs[annotation['image_id']]
        size = [image['height'], image['width']]
        try:
            found = list(to_rle(annotation)['size'])
        except Exception as error:  # whatever pycocotools raises there
            raise UserError(
                f'{where}: its segmentation gives no mask to be scored '
                f'({one_line(error) or type(error).__name__}); take it out of the file'
            ) from error
        if found != size:
            raise UserError(
                f'{where}: its segmentation gives a mask of size {found}, the image '
                f'is {size} (height, width); masks cannot be scored'
            )
