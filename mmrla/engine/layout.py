# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Explain why a data set or metric could not be built from the files on the disk.

Upstream decides what is usable; these checks only explain its failure (docs/data.md has
the layouts).
"""

import inspect
import os
import os.path as osp
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, EVALUATOR, METRICS

from ..errors import UserError
from ..registry import class_of, default_scope, type_name
from . import coco, data
from .checkpoint_io import is_local
from .checks import check_complete, check_file
from .errors import config_errors

__all__ = [
    'build_dataset',
    'build_evaluator',
    'explained',
]

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
_PAGE = 'docs/data.md shows the layout'

#: Number of classes if a config names none.
_NUM_CLASSES = {'ImageNet': 1000}

#: The folder and the files of the published CIFAR archives.
_CIFAR = {
    'CIFAR10': (
        'cifar-10-batches-py',
        [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch', 'batches.meta'],
    ),
    'CIFAR100': ('cifar-100-python', ['train', 'test', 'meta']),
}


def _metrics(cfg: Any, key: str) -> Iterator[Tuple[str, Any]]:
    """The metrics in an evaluator's config, also if it pairs them with data sets."""
    if isinstance(cfg, (list, tuple)):
        for number, item in enumerate(cfg):
            yield from _metrics(item, f'{key}.{number}')
    elif 'metrics' in cfg:
        yield from _metrics(cfg['metrics'], f'{key}.metrics')
    else:
        yield key, cfg


def build_dataset(cfg: Config, part: str) -> Any:
    """Build the data set of a part of a config.

    Args:
        cfg (Config): The whole config.
        part (str): 'train', 'val' or 'test'.

    Raises:
        UserError: There is none, or it cannot be built; the message says why.
    """
    check_complete(cfg, [f'{part}_dataloader'])
    with explained(cfg, [part]), config_errors(cfg.filename):
        with default_scope(cfg):
            dataset = DATASETS.build(cfg[f'{part}_dataloader'].dataset)
            if hasattr(dataset, 'full_init'):  # as the runner does
                dataset.full_init()
            return dataset


def build_evaluator(cfg: Config, part: str) -> Any:
    """Build the metrics of a part of a config; see :func:`build_dataset`."""
    with explained(cfg, [part]), config_errors(cfg.filename):
        with default_scope(cfg):
            evaluator = cfg[f'{part}_evaluator']
            if isinstance(evaluator, dict) and 'metrics' in evaluator:
                return EVALUATOR.build(dict({'type': 'Evaluator'}, **evaluator))
            return Evaluator(evaluator)


@contextmanager
def explained(cfg: Config, parts: Sequence[str]) -> Iterator[None]:
    """Name the file or key if building a data set or metric fails in this context.

    Args:
        cfg (Config): The whole config.
        parts: Which parts are built: 'train', 'val', 'test'.

    Raises:
        UserError: If the reason was found; else what was raised.
    """
    try:
        yield
    except Exception:
        with default_scope(cfg):
            for part in parts:
                loader = cfg.get(f'{part}_dataloader') or {}
                key = f'{part}_dataloader.dataset'
                for name, leaf in data.leaf_datasets(loader.get('dataset'), key):
                    # Transforms read no files.
                    if not _builds(DATASETS, {**leaf, 'pipeline': []}):
                        _explain_dataset(leaf, name)
                evaluators = cfg.get(f'{part}_evaluator') or []
                for name, metric in _metrics(evaluators, f'{part}_evaluator'):
                    path = metric.get('ann_file')
                    # Others read other files.
                    is_coco = type_name(metric) in ('CocoMetric', 'LVISMetric')
                    if is_coco and path and not _builds(METRICS, metric):
                        _explain_annotations(path, name, metric)
        raise


def _builds(registry: Any, cfg: Any) -> bool:
    try:
        registry.build(cfg)
    except Exception:
        return False
    return True


def _explain_dataset(cfg: Any, key: str) -> None:
    metainfo = cfg.get('metainfo') or {}
    if not isinstance(metainfo, dict):
        raise UserError(
            f"{key}.metainfo={metainfo!r} is no dict, like dict(classes=('cat', 'dog'))"
        )
    classes = metainfo.get('classes', cfg.get('classes'))
    if isinstance(classes, str) and not osp.isfile(osp.expanduser(classes)):
        data.check_class_names(classes, key)
    root = cfg.get('data_root') or ''
    if not _is_downloaded(cfg) and is_local(root):
        _check_paths(cfg, key)
        kind = type_name(cfg)
        is_coco = getattr(class_of(cfg, DATASETS), 'ANN_ID_UNIQUE', False)
        if kind in _CIFAR or kind.removesuffix('Folders') in _CIFAR:
            _check_cifar(cfg, kind, root, key)
        elif kind in ('ImageNet', 'CustomDataset'):
            _check_image_folder(cfg, kind, root, key)
        elif is_coco and cfg.get('ann_file'):
            _explain_annotations(osp.join(root, cfg['ann_file']), key, cfg)
    # Otherwise filters left nothing, and the data may be the reason.
    whole = dict(cfg, filter_cfg=None, serialize_data=False, indices=None)
    if cfg.get('filter_cfg') and _builds(DATASETS, whole):
        data.check_data(DATASETS.build(whole), key)


def _explain_annotations(path: str, key: str, cfg: Any) -> None:
    _check_ann_file(path, key, cfg)
    coco.check_annotations(coco.read(path, cfg.get('backend_args')), path)


def _check_ann_file(path: str, key: str, cfg: Any) -> None:
    """Refuse a missing annotation file; files behind other backends pass."""
    if cfg.get('backend_args') is None:
        remedy = f'put it there or name another one with --cfg-options {key}.ann_file'
        check_file(path, 'annotation file', f'{remedy}=FILE')


def _check_paths(cfg: Any, key: str) -> None:
    root, ann_file = cfg.get('data_root') or '', cfg.get('ann_file')
    if root and not osp.isdir(root) and cfg.get('backend_args') is None:
        raise UserError(
            f'data root {root} does not exist; put the data there (a link will do) '
            f'or name its folder with --cfg-options {key}.data_root=FOLDER'
        )
    if isinstance(ann_file, str) and ann_file:
        _check_ann_file(osp.join(root, ann_file), key, cfg)


def _is_downloaded(cfg: Any) -> bool:
    """Whether the data set (CIFAR, MNIST, ...) downloads its files."""
    kind = class_of(cfg, DATASETS)
    if not inspect.isclass(kind):
        return False
    parameter = inspect.signature(kind).parameters.get('download')
    return parameter is not None and bool(cfg.get('download', parameter.default))


def _folders(path: str) -> List[str]:
    with os.scandir(path) as entries:
        return sorted(e.name for e in entries if e.is_dir())


def _has_image(path: str) -> bool:
    for _, _, names in os.walk(path):
        if any(name.lower().endswith(_SUFFIXES) for name in names):
            return True
    return False


def _archives(path: str) -> str:
    """Mention an archive that was not unpacked."""
    if not osp.isdir(path):
        return ''
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
    if dataset.get('with_label') is False:
        return
    if ann_file is not None:
        _check_list(ann_file)
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


def _check_list(ann_file: str) -> None:
    with open(ann_file, encoding='utf-8') as file:
        lines = file.read().splitlines()
    if not any(lines):
        raise UserError(f'annotation file {ann_file} is empty')
    for line in lines:
        name, _, label = line.rpartition(' ')
        if not name or not label.isdigit():
            raise UserError(
                f'annotation file {ann_file} has the line {line!r}, which is not '
                'an image and its label, like n01440764/x.JPEG 0'
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
