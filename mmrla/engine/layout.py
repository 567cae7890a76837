# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of how data sets lie on the disk (docs/data.md), before training.

:func:`check_layout` looks at folders before a data set is built,
:func:`check_samples` at what the built one has, :func:`check_image_files` into its
images.
"""

import os
import os.path as osp
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.logging import print_log

from ..errors import UserError, one_line
from .checkpoint_io import is_local
from .coco import category_names
from .config import type_name

__all__ = [
    'check_image_files',
    'check_layout',
    'check_same_classes',
    'check_samples',
    'leaves',
]

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
_PAGE = 'docs/data.md shows the layout'

# How much of a file's end is searched for the mark that ends an image: some have
# bytes after it. And how many files are looked at between looks at the clock.
_TAIL = 4096
_CHUNK = 512

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


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is None:
        yield dataset
        return
    for item in inner:
        yield from leaves(item)


def check_samples(dataset: Any, key: str) -> None:
    """Refuse a data set with missing images, or of other classes.

    Args:
        dataset: The built data set.
        key (str): Its key, such as 'train_dataloader.dataset'.

    Raises:
        UserError: The message names the file or the classes.
    """
    for leaf in leaves(dataset):
        if not hasattr(leaf, 'get_data_info'):
            continue
        _check_categories(leaf, key)
        _check_annotated(leaf)


def check_image_files(dataset: Any, seconds: Optional[float] = None) -> None:
    """Refuse a data set with a file that is no image, or cut off.

    Only the ends of a JPEG or PNG are read; what does not look whole, or is of
    another kind, is read by the pipeline's first transform, as in training.

    Args:
        dataset: The built data set.
        seconds (float, optional): Stop after so long; the rest is read in
            training. All of it by default.

    Raises:
        UserError: The message names the file.
    """
    for leaf in leaves(dataset):
        if hasattr(leaf, 'get_data_info'):
            _check_image_files(leaf, seconds)


def _check_categories(dataset: Any, key: str) -> None:
    cat_ids, classes = (
        getattr(dataset, 'cat_ids', None),
        dataset.metainfo.get('classes'),
    )
    if cat_ids is None or not classes or not is_local(dataset.ann_file):
        return
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    names = category_names(dataset.ann_file)
    found = [name for name in names if name in classes]
    if not found:
        raise UserError(
            f'{dataset.ann_file} has none of the classes that {key} expects: it has '
            f'{_some(names)}, not {_some(classes)}; name them in {key}.metainfo.classes'
        )
    if found != list(classes[: len(found)]):
        # mmdet numbers the classes that it finds, in the order of the file.
        at = next(i for i, name in enumerate(found) if name != classes[i])
        raise UserError(
            f'{dataset.ann_file}: as its categories are ordered, class {at} is '
            f'{found[at]!r}, but {key}.metainfo.classes has {classes[at]!r} there; '
            'name the classes in the order of the file, with a category for each'
        )
    if len(found) < len(classes):
        missing = [name for name in classes if name not in found]
        print_log(
            f'{dataset.ann_file} has no category for {len(missing)} of {len(classes)} '
            f'classes: {_some(missing)}',
            level=30,
        )


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + ', ...' * (len(names) > 3)


def _transforms(dataset: Any) -> List[Any]:
    return list(getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or [])


def _check_annotated(dataset: Any) -> None:
    """Look once at each entry of a data set with annotations."""
    if not getattr(dataset, 'ann_file', None):
        return  # the images are those that were found
    transforms = _transforms(dataset)
    scales = [
        t.scale
        for t in transforms
        if getattr(t, 'keep_ratio', False) and isinstance(getattr(t, 'scale', 0), tuple)
    ]
    has_masks = any(getattr(t, 'with_mask', False) for t in transforms)
    listed: Dict[str, frozenset] = {}
    missing = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path = info.get('img_path')
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
        for scale in scales:
            _check_shape(info, scale, dataset.ann_file)
        if has_masks and any('mask' not in i for i in info.get('instances', ())):
            raise UserError(
                f'{dataset.ann_file}: an object in {path} has no segmentation, and '
                'the pipeline loads masks; add it, or take a detector without masks '
                'and with_mask=False'
            )
    if missing:
        raise UserError(
            f'image {missing[0]} does not exist; {len(missing)} of {len(dataset)} '
            f'images of {dataset.ann_file} are missing'
        )


def _check_shape(info: Dict[str, Any], scale: Tuple[int, int], ann_file: str) -> None:
    """Refuse an image so long that resizing leaves no pixel of its short side."""
    width, height = info.get('width'), info.get('height')
    if not width or not height:
        return
    long, short = max(width, height), min(width, height)
    # As mmcv.imrescale.
    factor = min(max(scale) / long, min(scale) / short)
    if int(short * factor + 0.5) < 1:
        raise UserError(
            f'image {info["img_path"]} is {width}x{height} pixels: resized to scale '
            f'{scale} with keep_ratio nothing is left of its short side; crop it or '
            f'take it out of {ann_file}'
        )


def _is_whole_image(path: str) -> bool:
    """Whether a JPEG or PNG begins and ends as one; False for all others."""
    try:
        with open(path, 'rb') as file:
            head = file.read(8)
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            tail = file.read()
    except OSError:  # what is wrong is said when it is read
        return False
    if head.startswith(b'\xff\xd8\xff'):
        return b'\xff\xd9' in tail  # nowhere in the image data itself
    return head == b'\x89PNG\r\n\x1a\n' and b'IEND' in tail


def _check_image_files(dataset: Any, seconds: Optional[float]) -> None:
    transforms = _transforms(dataset)
    if not transforms or not type(transforms[0]).__name__.startswith('LoadImage'):
        return
    start, number = time.monotonic(), len(dataset)
    # Most of the time is spent waiting for the disk.
    with ThreadPoolExecutor(16) as pool:
        for first in range(0, number, _CHUNK):
            if seconds is not None and time.monotonic() - start > seconds:
                print_log(
                    f'looked at {first} of {number} image files in {seconds:.0f} s; '
                    'tools/misc/check_data.py looks at all'
                )
                return
            indices = range(first, min(first + _CHUNK, number))
            paths = [dataset.get_data_info(i).get('img_path') for i in indices]
            if not all(isinstance(p, str) and is_local(p) for p in paths):
                return
            for path, is_whole in zip(paths, pool.map(_is_whole_image, paths)):
                if not is_whole:
                    _check_loads(transforms[0], path)


def _check_loads(load: Any, path: str) -> None:
    try:
        if not osp.getsize(path):
            raise ValueError('it is empty')
        load(dict(img_path=path))  # None with ignore_empty: another takes its place
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, AssertionError):  # mmcv's for what it cannot decode
            reason = 'it is cut off or no image'
        raise UserError(
            f'image {path} cannot be read: {reason}; get it again, or take it out of '
            'the data set'
        ) from error
