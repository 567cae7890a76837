# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of what a config names, before anything is built from it."""

import inspect
import os.path as osp
import re
from typing import Any, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import nn

from ..errors import UserError
from . import layout
from .checkpoint_io import has_form, is_local
from .config import leaf_datasets
from .weights import pretrained_cfgs

__all__ = [
    'check_built_data',
    'check_checkpoint',
    'check_complete',
    'check_data',
    'check_file',
    'check_pretrained_files',
]

# Heads with a class for each of the data set; the RPN's has one of its own.
_HEAD = re.compile(r'(^|\.)(bbox_head|mask_head|head)(\.\d+)?$')
# How long a training looks at its images before it begins.
_SECONDS = 60


def check_complete(cfg: Config, keys: Sequence[str]) -> None:
    """Refuse a config that lacks a part, as a base file does.

    Raises:
        UserError: A key is not there.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise UserError(
            f'{cfg.filename} has no {", ".join(missing)}: it is no complete config'
        )


def check_file(path: str, what: str, remedy: str) -> None:
    """Refuse a local file that is not there or empty.

    Args:
        path (str): The file; URLs pass.
        what (str): What the file is.
        remedy (str): What to do.

    Raises:
        UserError: There is no such file.
    """
    if not is_local(path):
        return
    path = osp.expanduser(path)
    if osp.isfile(path):
        if osp.getsize(path):
            return
        problem = 'is empty'
    else:
        problem = 'is a folder, not a file' if osp.isdir(path) else 'does not exist'
    raise UserError(f'{what} {path} {problem}; {remedy}')


def check_checkpoint(path: str, what: str, remedy: str) -> None:
    """Refuse a checkpoint that is not there, truncated or some other file.

    Args:
        path (str): The file; URLs pass.
        what (str): What the file is.
        remedy (str): What to do if it is missing.

    Raises:
        UserError: There is no such checkpoint.
    """
    check_file(path, what, remedy)
    if is_local(path) and not has_form(osp.expanduser(path)):
        raise UserError(f'{what} {path} is truncated or no file of torch.save')


def check_data(cfg: Config, parts: Sequence[str]) -> None:
    """Refuse datasets and evaluators whose files are missing or lie wrongly.

    Args:
        cfg (Config): The whole config.
        parts: Which parts are used: 'train', 'val', 'test'.

    Raises:
        UserError: For the first path that is missing, with its key.
    """
    scope = cfg.get('default_scope')
    datasets = []
    for part in parts:
        loader = cfg.get(f'{part}_dataloader') or {}
        key = f'{part}_dataloader.dataset'
        for name, dataset in leaf_datasets(loader.get('dataset'), key):
            if not _is_downloaded(dataset, scope):
                _check_dataset(dataset, name)
                layout.check_layout(dataset, name)
                datasets.append((name, dataset))
        evaluators = cfg.get(f'{part}_evaluator') or []
        for name, evaluator in _listed(evaluators, f'{part}_evaluator'):
            ann_file = evaluator.get('ann_file')
            if isinstance(ann_file, str):
                _check_annotations(ann_file, f'{name}.ann_file')
    layout.check_same_classes(datasets)


def check_built_data(runner: Runner, parts: Sequence[str]) -> None:
    """Refuse datasets whose images or classes do not go with what is to be done.

    Args:
        runner (Runner): The runner, with the loops of these parts built.
        parts: Which parts are used: 'train', 'val', 'test'.

    Raises:
        UserError: For the first image that is missing or cannot be used, or with
            the classes.
    """
    for part in parts:
        loader = getattr(getattr(runner, f'{part}_loop'), 'dataloader', None)
        if loader is None:
            continue
        key = f'{part}_dataloader.dataset'
        layout.check_samples(loader.dataset, key)
        _check_num_classes(runner.model, loader.dataset, key)
        if is_main_process():
            layout.check_image_files(loader.dataset, seconds=_SECONDS)


def _check_num_classes(model: nn.Module, dataset: Any, key: str) -> None:
    """Refuse heads for another number of classes than the data set has.

    A detector would fail in its first validation, a classifier whose head has too
    few in the loss.
    """
    metainfo = getattr(dataset, 'metainfo', {})
    classes = metainfo.get('classes')
    # Panoptic heads count otherwise, and those that read words have no classes.
    if classes is None or 'thing_classes' in metainfo or _reads_words(dataset):
        return
    number = 1 if isinstance(classes, str) else len(classes)
    for name, module in model.named_modules():
        built = getattr(module, 'num_classes', None)
        if not isinstance(built, int) or not _HEAD.search(name) or built == number:
            continue
        if getattr(module, 'class_agnostic', False):
            continue
        if built > number and not type(module).__module__.startswith('mmdet.'):
            continue  # classes without images do a classifier no harm
        raise UserError(
            f'{name.removeprefix("module.")} is for {built} classes, {key} has '
            f'{number}; set its num_classes to {number}, or name the classes in '
            f'{key}.metainfo.classes'
        )


def _reads_words(dataset: Any) -> bool:
    return any(
        getattr(leaf, 'return_classes', False) for leaf in layout.leaves(dataset)
    )


def _listed(cfg: Any, key: str) -> Sequence[Tuple[str, Any]]:
    if isinstance(cfg, (list, tuple)):
        return [(f'{key}.{index}', item) for index, item in enumerate(cfg)]
    return [(key, cfg)]


def _is_downloaded(dataset: Any, scope: Optional[str]) -> bool:
    """Whether the dataset (CIFAR, MNIST, ...) gets its files by itself."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    if not inspect.isclass(kind):
        return False  # unknown: refused by name when it is built
    parameter = inspect.signature(kind).parameters.get('download')
    return parameter is not None and bool(dataset.get('download', parameter.default))


def _check_dataset(dataset: Any, key: str) -> None:
    root = dataset.get('data_root') or ''
    if not is_local(root):
        return
    if root and not osp.isdir(osp.expanduser(root)):
        raise UserError(
            f'data root {root} does not exist; put the data there (a link will do) '
            f'or name its folder with --cfg-options {key}.data_root=FOLDER'
        )
    ann_file = dataset.get('ann_file')
    if isinstance(ann_file, str) and ann_file:
        _check_annotations(osp.join(root, ann_file), f'{key}.ann_file')
    prefixes = dataset.get('data_prefix') or {}
    if isinstance(prefixes, str):
        prefixes = {'': prefixes}
    for name, prefix in prefixes.items():
        if not isinstance(prefix, str) or not prefix:
            continue
        folder = osp.join(root, prefix)
        if is_local(folder) and not osp.isdir(osp.expanduser(folder)):
            option = f'{key}.data_prefix' + (f'.{name}' if name else '')
            raise UserError(
                f'image folder {folder} does not exist; put the images there or '
                f'name their folder with --cfg-options {option}=FOLDER'
            )


def _check_annotations(path: str, key: str) -> None:
    remedy = f'put it there or name another one with --cfg-options {key}=FILE'
    check_file(path, 'annotation file', remedy)


def check_pretrained_files(cfg: Config) -> None:
    """Refuse pretrained weights (``init_cfg``) whose file is missing.

    Raises:
        UserError: With the ways to get the file, or to do without.
    """
    for key, init_cfg in pretrained_cfgs(cfg.model, 'model'):
        owner, _, rest = key.rpartition('.init_cfg')
        scratch = [f'{key}=None' if rest == '' else f'{owner}.init_cfg=None']
        # Frozen, or with the statistics of nothing, it would learn nothing.
        module = _node(cfg, owner)
        frozen = _argument(module, 'frozen_stages', cfg.get('default_scope'))
        if isinstance(frozen, int) and frozen >= 0:
            scratch.append(f'{owner}.frozen_stages=-1')
        if _argument(module, 'norm_eval', cfg.get('default_scope')) is True:
            scratch.append(f'{owner}.norm_eval=False')
        check_checkpoint(
            init_cfg['checkpoint'],
            'pretrained checkpoint',
            'train it (configs/rla_resnet), convert a released one with '
            'tools/model_converters/rlanet_to_mmrla.py, name another with '
            f'--cfg-options {key}.checkpoint=FILE, or start from scratch with '
            f'--cfg-options {" ".join(scratch)}',
        )


def _node(cfg: Any, key: str) -> Any:
    """What stands at a dotted key, with numbers for places in lists."""
    for part in key.split('.'):
        cfg = cfg[int(part)] if isinstance(cfg, (list, tuple)) else cfg[part]
    return cfg


def _argument(module: Any, name: str, scope: Optional[str]) -> Any:
    """What a module's config says for an argument, else its class."""
    if name in module:
        return module[name]
    kind = module.get('type')
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else ():
        init = vars(cls).get('__init__')
        parameters = inspect.signature(init).parameters if init else {}
        if name in parameters:
            return parameters[name].default
    return None
