# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of how data sets lie on the disk (docs/data.md), before training.

:func:`check_layout` looks at folders before a data set is built,
:func:`check_samples` at the images and classes of the built one.
"""

import json
import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.logging import print_log

from .checkpoint_io import is_local
from .config import type_name
from .errors import UserError

__all__ = ['check_layout', 'check_samples', 'check_same_classes']

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
_PAGE = 'docs/data.md shows the layout'

#: Number of classes where a config names none.
_NUM_CLASSES = {'ImageNet': 1000}

#: The folder and the files of the published CIFAR archives.
_CIFAR = {
    'CIFAR10': (
        'cifar-10-batches-py',
        [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch', 'batches.meta'],
    ),
    'CIFAR100': ('cifar-100-python', ['train', 'test', 'meta']),
}


def check_layout(dataset: Any, key: str) -> None:
    """Refuse a data set whose folders are not as they have to be.

    Args:
        dataset: The config of a data set that reads files.
        key (str): Its key, such as 'train_dataloader.dataset'.

    Raises:
        UserError: The message names the folder, what is wrong and the remedy.
    """
    root = dataset.get('data_root') or ''
    if not is_local(root):
        return
    kind = type_name(dataset)
    if kind in _CIFAR or kind.removesuffix('Folders') in _CIFAR:
        _check_cifar(dataset, kind, osp.expanduser(root), key)
    elif kind in ('ImageNet', 'CustomDataset'):
        _check_image_folder(dataset, kind, osp.expanduser(root), key)


def _folders(path: str) -> List[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir())


def _has_image(path: str) -> bool:
    for _, _, names in os.walk(path):
        if any(name.lower().endswith(_SUFFIXES) for name in names):
            return True
    return False


def _archives(path: str) -> str:
    """What a user may have forgotten to unpack."""
    endings = ('.tar', '.tar.gz', '.tgz', '.tar.xz', '.zip')
    found = sorted(n for n in os.listdir(path) if n.lower().endswith(endings))
    return f'; {found[0]} there is still to be unpacked' if found else ''


def _classes(dataset: Any) -> Optional[Sequence[str]]:
    metainfo = dataset.get('metainfo') or {}
    classes = metainfo.get('classes')
    if isinstance(classes, str):
        with open(classes, encoding='utf-8') as file:
            return [line.strip() for line in file]
    return classes


def _split_folder(dataset: Any, root: str) -> str:
    prefix = dataset.get('data_prefix') or dataset.get('split') or ''
    if not isinstance(prefix, str):
        prefix = prefix.get('img_path') or ''
    return osp.join(root, prefix)


def _annotations(dataset: Any, root: str) -> Optional[str]:
    """The list of images and labels, if one is used instead of class folders."""
    if dataset.get('ann_file'):
        return osp.join(root, dataset['ann_file'])
    if type_name(dataset) == 'ImageNet' and dataset.get('split'):
        path = osp.join(root, 'meta', f'{dataset["split"]}.txt')
        return path if osp.isfile(path) else None
    return None


def _check_image_folder(dataset: Any, kind: str, root: str, key: str) -> None:
    folder = _split_folder(dataset, root)
    if not osp.isdir(folder):
        raise UserError(
            f'image folder {folder} does not exist{_archives(root)}; {_PAGE}, and '
            f'--cfg-options {key}.data_root=FOLDER names another place'
        )
    ann_file = _annotations(dataset, root)
    if ann_file is not None:
        _check_list(ann_file, folder)
        return
    if dataset.get('with_label') is False:
        return
    names = _folders(folder)
    if not names:
        what = 'images' if _has_image(folder) else 'nothing'
        raise UserError(
            f'{folder} has {what} where one folder for each class should '
            f'be{_archives(folder)}; {_PAGE}'
        )
    classes = _classes(dataset)
    number = len(classes) if classes is not None else _NUM_CLASSES.get(kind)
    if number is not None and len(names) != number:
        raise UserError(
            f'{folder} has {len(names)} class folders, the data set has {number} '
            f'classes; for classes of your own set {key}.metainfo.classes to their '
            'names and model.head.num_classes to their number'
        )
    empty = [name for name in names if not _has_image(osp.join(folder, name))]
    if empty:
        raise UserError(
            f'{osp.join(folder, empty[0])} has no image; so do {len(empty)} of '
            f'{len(names)} class folders'
        )


def _check_list(ann_file: str, folder: str) -> None:
    with open(ann_file, encoding='utf-8') as file:
        lines = [line.strip() for _, line in zip(range(10), file)]
    if not any(lines):
        raise UserError(f'annotation file {ann_file} is empty')
    for line in filter(None, lines):
        name, _, label = line.rpartition(' ')
        if not name or not label.isdigit():
            raise UserError(
                f'annotation file {ann_file} has the line {line!r}, which is not '
                'an image and its label, like n01440764/x.JPEG 0'
            )
        if not osp.isfile(osp.join(folder, name)):
            raise UserError(
                f'{osp.join(folder, name)}, from {ann_file}, does not exist'
            )


def _check_cifar(dataset: Any, kind: str, root: str, key: str) -> None:
    reads_folders = kind.endswith('Folders')
    folder, files = _CIFAR[kind.removesuffix('Folders')]
    split = osp.join(root, dataset.get('split') or 'train')
    # cifar-100-python has files called train and test.
    if reads_folders and osp.isdir(split):
        return  # the data set compares them with its classes
    base = osp.join(root, folder)
    if not osp.isdir(base):
        hint = _archives(root)
        if osp.basename(osp.normpath(root)) == folder:
            hint = f'; is {osp.dirname(osp.normpath(root)) or "."} meant?'
        others = f', nor {osp.basename(split)} with class folders' * reads_folders
        raise UserError(
            f'data root {root} has no {folder}{others}{hint}; {_PAGE}, and '
            f'--cfg-options {key}.data_root=FOLDER names another place'
        )
    missing = [name for name in files if not osp.isfile(osp.join(base, name))]
    if missing:
        raise UserError(f'{base} lacks {", ".join(missing)}; unpack the archive again')


def check_same_classes(datasets: Sequence[Tuple[str, Any]]) -> None:
    """Refuse parts whose class folders differ: labels are counted in each.

    Args:
        datasets: Keys and configs of the data sets of training and testing.

    Raises:
        UserError: If two data sets of class folders have other names.
    """
    seen: Optional[Tuple[str, List[str]]] = None
    for _, dataset in datasets:
        root = osp.expanduser(dataset.get('data_root') or '')
        folder = _split_folder(dataset, root)
        if (
            type_name(dataset) not in ('ImageNet', 'CustomDataset')
            or dataset.get('with_label') is False
            or _annotations(dataset, root) is not None
            or not osp.isdir(folder)
        ):
            continue
        names = _folders(folder)
        if seen is None:
            seen = folder, names
        elif names != seen[1]:
            name = sorted(set(names) ^ set(seen[1]))[0]
            raise UserError(
                f'{folder} and {seen[0]} do not have the same class folders: '
                f'only one has {name!r}; labels would not fit together'
            )


def _leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is None:
        yield dataset
        return
    for item in inner:
        yield from _leaves(item)


def check_samples(dataset: Any, key: str) -> None:
    """Refuse a data set with missing images, or of other classes.

    Args:
        dataset: The built data set.
        key (str): Its key, such as 'train_dataloader.dataset'.

    Raises:
        UserError: The message names the file or the classes.
    """
    for leaf in _leaves(dataset):
        if not hasattr(leaf, 'get_data_info'):
            continue
        _check_categories(leaf, key)
        _check_images(leaf)


def _check_categories(dataset: Any, key: str) -> None:
    cat_ids, classes = (
        getattr(dataset, 'cat_ids', None),
        dataset.metainfo.get('classes'),
    )
    if cat_ids is None or not classes or not is_local(dataset.ann_file):
        return
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    if len(cat_ids) == len(classes):
        return
    with open(dataset.ann_file, encoding='utf-8') as file:
        names = [cat['name'] for cat in json.load(file).get('categories', [])]
    missing = [name for name in classes if name not in names]
    if len(missing) == len(classes):
        raise UserError(
            f'{dataset.ann_file} has none of the classes that {key} expects: it has '
            f'{_some(names)}, not {_some(classes)}; name them in {key}.metainfo.classes'
        )
    print_log(
        f'{dataset.ann_file} has no category for {len(missing)} of {len(classes)} '
        f'classes: {_some(missing)}',
        level=30,
    )


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + ', ...' * (len(names) > 3)


def _check_images(dataset: Any) -> None:
    if not getattr(dataset, 'ann_file', None):
        return  # the images are those that were found
    listed: Dict[str, frozenset] = {}
    missing = []
    for index in range(len(dataset)):
        path = dataset.get_data_info(index).get('img_path')
        if not isinstance(path, str) or not is_local(path):
            return
        folder, name = osp.split(osp.expanduser(path))
        if folder not in listed:
            # One listing of a folder is far cheaper than a look at each file.
            listed[folder] = (
                frozenset(os.listdir(folder)) if osp.isdir(folder) else frozenset()
            )
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        raise UserError(
            f'image {missing[0]} does not exist; {len(missing)} of {len(dataset)} '
            f'images of {dataset.ann_file} are missing'
        )
