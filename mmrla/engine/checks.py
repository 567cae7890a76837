# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of a config's files and of the objects built from it."""

import inspect
import os.path as osp
import re
from typing import Any, Optional, Sequence

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from ..errors import UserError
from ..models.rla import RLA
from ..registry import class_of
from . import data
from .checkpoint_io import has_form, is_local
from .weights import pretrained_cfgs

__all__ = [
    'check_built',
    'check_checkpoint',
    'check_complete',
    'check_file',
    'check_pretrained_files',
]

# Heads with one class per class of the data set, unlike the RPN's.
_HEAD = re.compile(r'(^|\.)(bbox_head|mask_head|head)(\.\d+)?$')
# Seconds that a training spends on checking images before it starts.
_SECONDS = 60


def check_complete(cfg: Config, keys: Sequence[str]) -> None:
    """Refuse a config that lacks a part, such as a base file.

    Raises:
        UserError: A key is not there.
    """
    missing = [key for key in keys if cfg.get(key) is None]
    if missing:
        raise UserError(
            f'{cfg.filename} has no {", ".join(missing)}: it is no complete config'
        )


def check_file(path: str, what: str, remedy: str) -> None:
    """Refuse a local file that is missing or empty.

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
    """Refuse a checkpoint that is missing, truncated or another kind of file.

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


def check_built(runner: Runner, parts: Sequence[str]) -> None:
    """Refuse data sets, metrics and parts of the model that do not match.

    Args:
        runner (Runner): The runner, with the loops of these parts built.
        parts: Which parts are used: 'train', 'val', 'test'.

    Raises:
        UserError: For the first thing that is wrong.
    """
    _check_hidden_state(runner.model)
    built = []
    for part in parts:
        loop = getattr(runner, f'{part}_loop')
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if dataset is None:
            continue
        key = f'{part}_dataloader.dataset'
        built.append((key, dataset))
        if getattr(loop, 'val_interval', 1) < 1:
            raise UserError(
                f'{part}_cfg.val_interval={loop.val_interval} is less than 1; to leave '
                'out validation, set val_cfg, val_dataloader and val_evaluator to None'
            )
        _check_num_classes(runner.model, dataset, key)
        if is_main_process():
            runner.logger.info(f'{key}: {data.check_data(dataset, key, _SECONDS)}')
            evaluator = getattr(loop, 'evaluator', None)
            if evaluator is not None:
                data.check_metrics(dataset, evaluator, f'{part}_evaluator')
    data.check_same_folders(built)


def _check_hidden_state(model: nn.Module) -> None:
    """Refuse a neck of upstream's for a backbone that also returns its hidden state."""
    for module in model.modules():
        backbone = getattr(module, 'backbone', None)
        if not isinstance(backbone, RLA) or not backbone.return_hidden:
            continue
        neck = getattr(module, 'neck', None)
        neck = neck[0] if isinstance(neck, nn.Sequential) else neck
        channels = getattr(neck, 'in_channels', None)
        last = channels[-1] if isinstance(channels, (list, tuple)) else channels
        is_upstreams = type(neck).__module__.startswith(('mmdet.', 'mmpretrain.'))
        if is_upstreams and last != backbone.rla_channels:
            raise UserError(
                f'{type(backbone).__name__}: return_hidden=True adds the hidden state '
                f'to the outputs, and {type(neck).__name__} does not take it; set it '
                'to False in a detector (in a classifier, RLANeck takes it)'
            )


def _check_num_classes(model: nn.Module, dataset: Any, key: str) -> None:
    """Refuse heads for another number of classes than the data set has.

    A detector would fail in its first validation, a classifier whose head has too
    few in the loss.
    """
    metainfo = getattr(dataset, 'metainfo', {})
    if not isinstance(metainfo, dict):
        return  # those of several data sets, each with its own
    classes = metainfo.get('classes')
    # Panoptic heads count otherwise, and those that read words have no classes.
    if 'thing_classes' in metainfo or _reads_words(dataset):
        return
    if classes is not None:
        data.check_class_names(classes, key)
    number = data.number_of_labels(dataset) if classes is None else len(classes)
    if not number:
        return
    for name, module in model.named_modules():
        built = getattr(module, 'num_classes', None)
        if not isinstance(built, int) or not _HEAD.search(name) or built == number:
            continue
        if getattr(module, 'class_agnostic', False):
            continue
        packages = {kind.__module__.partition('.')[0] for kind in type(module).__mro__}
        if built > number and 'mmdet' not in packages:
            continue  # a classifier may have classes without images
        raise UserError(
            f'{name.removeprefix("module.")} is for {built} classes, {key} has '
            f'{number}; set its num_classes to {number}, or name the classes in '
            f'{key}.metainfo.classes'
        )


def _reads_words(dataset: Any) -> bool:
    return any(
        getattr(leaf, 'return_classes', False)
        for _, leaf in data.leaf_datasets(dataset, '')
    )


def check_pretrained_files(cfg: Config) -> None:
    """Refuse pretrained weights (``init_cfg``) whose file is missing.

    Raises:
        UserError: The message says how to get the file or do without it.
    """
    for key, init_cfg in pretrained_cfgs(cfg.model, 'model'):
        owner, _, rest = key.rpartition('.init_cfg')
        scratch = [f'{key}=None' if rest == '' else f'{owner}.init_cfg=None']
        # Frozen, or with initial statistics, it would learn nothing.
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
    """The value at a dotted key; numbers are positions in lists."""
    for part in key.split('.'):
        cfg = cfg[int(part)] if isinstance(cfg, (list, tuple)) else cfg[part]
    return cfg


def _argument(module: Any, name: str, scope: Optional[str]) -> Any:
    """An argument's value in a module's config, else its class's default."""
    if name in module:
        return module[name]
    kind = class_of(module, MODELS, scope)
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else ():
        init = vars(cls).get('__init__')
        parameters = inspect.signature(init).parameters if init else {}
        if name in parameters:
            return parameters[name].default
    return None
