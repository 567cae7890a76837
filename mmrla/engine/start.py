# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks at the start of a run: late parts, loaded weights, frozen modules."""

import difflib
import functools
import inspect
import os
import shutil
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseAveragedModel
from mmengine.registry import HOOKS, OPTIMIZERS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import UserError
from ..models.rla import RLA
from .checkpoint_io import state_dict_of
from .errors import at_error, config_errors
from .weights import Arrivals, check_load, check_pretrained, learned, unwrapped

__all__ = ['StartHook', 'blame_config', 'check_training', 'leave_nothing', 'untrained']

_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@HOOKS.register_module()
class StartHook(Hook):
    """Judge the loaded weights before a network is trained or tested.

    Refuses a checkpoint (``load_from``, ``resume``, a test's) of another network and
    pretrained weights (``init_cfg``) that did not arrive, whatever their source: it
    looks at what was loaded. MMEngine loads what fits by name and shape and only warns
    about the rest. Warns about modules that are frozen or in eval mode although they
    were never trained.

    Raises:
        UserError: When training or a test begins.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        #: Whether a training has begun.
        self.has_begun = False
        self._arrivals: Optional[Arrivals] = None
        self._start: Optional[int] = None  # of the loads, the first of a checkpoint
        self._classes: Optional[Sequence[str]] = None  # of the checkpoint

    def watch(self, model: nn.Module) -> None:
        """Start recording what is loaded into a network."""
        self._arrivals = Arrivals(model)

    def before_run(self, runner: Any) -> None:
        """Start recording, unless already done; FlexibleRunner has loaded by then."""
        if self._arrivals is None and not hasattr(runner, 'strategy'):
            self.watch(runner.model)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Refuse a checkpoint without weights, before they are copied."""
        state_dict_of(checkpoint, str(runner._load_from))
        meta = checkpoint.get('meta') or {}
        self._classes = (meta.get('dataset_meta') or {}).get('classes')
        if self._arrivals is not None:
            self._start = len(self._arrivals.loads)

    def before_train(self, runner: Any) -> None:
        """Judge the loaded weights and what will be trained."""
        arrivals = self._check_checkpoint(runner, exact=bool(runner._resume))
        if runner._resume:
            self._check_classes(runner, runner.train_loop)
        if arrivals is None:
            return
        check_pretrained(arrivals)
        runner.model.train()  # as the loop is about to do
        frozen, norms = untrained(arrivals.model, arrivals.arrived()[0])
        problems = []
        if frozen:
            problems.append(f'{_listed(frozen)} are frozen as they were drawn')
        if norms:
            problems.append(
                f'norms of {_listed(norms)} are in eval mode with mean 0 and variance 1'
            )
        if problems:
            is_rla = all('.rla' in name for name in frozen + norms)
            remedy = (
                'leave out freeze_rla'
                if is_rla
                else 'name pretrained weights (init_cfg or load_from), or set '
                'frozen_stages=-1 and norm_eval=False'
            )
            runner.logger.warning(f'never trained: {"; ".join(problems)}; {remedy}')

    def before_train_epoch(self, runner: Any) -> None:
        """Note that the training has begun."""
        self.has_begun = True

    def before_test(self, runner: Any) -> None:
        """Judge the loaded weights."""
        self._check_checkpoint(runner, exact=True)
        self._check_classes(runner, runner.test_loop)

    def _check_classes(self, runner: Any, loop: Any) -> None:
        """Compare the checkpoint's classes with the data set's."""
        metainfo = getattr(loop.dataloader.dataset, 'metainfo', None)
        now = metainfo.get('classes') if isinstance(metainfo, dict) else None
        before = self._classes
        if not now or not before or list(now) == list(before):
            return
        path = runner._load_from
        pairs = enumerate(zip_longest(before, now))
        differ, (there, here) = next(p for p in pairs if p[1][0] != p[1][1])
        text = f'class {differ} is {there!r} there and {here!r} here'
        if sorted(now) == sorted(before):
            raise UserError(
                f'checkpoint {path} was trained with the classes in another order: '
                f'{text}; name them in metainfo.classes in its order'
            )
        runner.logger.warning(
            f'checkpoint {path} was trained with other classes than the data set has: '
            f'{text}; predictions count as those of the data set'
        )

    def _check_checkpoint(self, runner: Any, exact: bool) -> Optional[Arrivals]:
        arrivals = self._arrivals
        if arrivals is None:
            return None
        arrivals.close()
        whole = [
            load
            for i, load in enumerate(arrivals.loads)
            if not load.name and self._start is not None and i >= self._start
        ]
        if whole:
            check_load(arrivals.model, whole[0], str(runner._load_from), exact)
        return arrivals


def _listed(names: List[str]) -> str:
    more = f' and {len(names) - 6} more' if len(names) > 6 else ''
    return ', '.join(names[:6]) + more


def untrained(model: nn.Module, arrived: Set[str]) -> Tuple[List[str], List[str]]:
    """Modules that a training would leave with random weights.

    Norms show whether anything was trained: untrained ones have weight 1, bias 0, mean
    0 and variance 1.

    Args:
        model (nn.Module): The network, in the mode in which it trains.
        arrived: Names of its learned tensors that came from a file.

    Returns:
        Names of frozen modules, and of those with batch norms in eval mode, each as
        few names as possible. Copies that follow another network (teachers) are left
        out.
    """
    modules = dict(model.named_modules())
    copies = tuple(f'{name}.' for name in _copies(modules))
    leaves = {
        name: module
        for name, module in modules.items()
        if isinstance(module, (_ConvNd, nn.Linear, *_NORMS))
        and not name.startswith(copies)
    }
    new = {
        name
        for name, module in leaves.items()
        if not any(f'{name}.{tensor}' in arrived for tensor in learned(module))
    }
    norms = [name for name, module in leaves.items() if isinstance(module, _NORMS)]
    fresh = {name for name in norms if name in new and _is_initial(leaves[name])}
    convs = [name for name in leaves if name not in set(norms)]

    frozen = set()
    for name in convs:
        own = list(leaves[name].parameters())
        if name in new and own and not any(p.requires_grad for p in own):
            near = _nearest(name, norms)
            if near and fresh.issuperset(near):
                frozen.add(name)
    held = {
        name
        for name in fresh
        if isinstance(leaves[name], _BatchNorm)
        and not leaves[name].training
        and leaves[name].running_mean is not None
    }
    return _smallest(frozen, convs), _smallest(held, norms)


def _copies(modules: Dict[str, nn.Module]) -> List[str]:
    """Names of averaged copies of modules, and of frozen twins."""
    names = [n for n, m in modules.items() if isinstance(m, BaseAveragedModel)]
    for parent, module in modules.items():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            continue
        forms: Dict[Any, List[Tuple[str, bool]]] = {}
        for name, child in module.named_children():
            form = tuple((k, tuple(v.shape)) for k, v in child.named_parameters())
            if form:
                trains = any(p.requires_grad for p in child.parameters())
                path = f'{parent}.{name}' if parent else name
                forms.setdefault(form, []).append((path, trains))
        for twins in forms.values():
            if any(trains for _, trains in twins):
                names += [name for name, trains in twins if not trains]
    return names


def _is_initial(norm: nn.Module) -> bool:
    """Whether a norm has its initial values, or those of zero_init_residual."""
    values: Dict[str, Tuple[float, ...]] = dict(
        weight=(1.0, 0.0), bias=(0.0,), running_mean=(0.0,), running_var=(1.0,)
    )
    for name, allowed in values.items():
        tensor = getattr(norm, name, None)
        if tensor is not None and not any(bool((tensor == v).all()) for v in allowed):
            return False
    return True


def _nearest(name: str, norms: List[str]) -> List[str]:
    """The norms in the smallest module around a layer that has any."""
    while '.' in name:
        name = name.rpartition('.')[0]
        near = [norm for norm in norms if norm.startswith(f'{name}.')]
        if near:
            return near
    return norms


def _smallest(names: Set[str], everything: List[str]) -> List[str]:
    """Names of modules that contain all of ``names`` and nothing else of their kind."""
    found: Dict[str, None] = {}
    for name in everything:
        if name not in names:
            continue
        parts = name.split('.')
        for i in range(1, len(parts) + 1):
            top = '.'.join(parts[:i])
            below = [n for n in everything if n == top or n.startswith(f'{top}.')]
            if names.issuperset(below):
                found[top] = None
                break
    return list(found)


def blame_config(runner: Any, cfg: Config) -> None:
    """Blame the config for what fails when ``runner.train()`` builds the rest.

    Args:
        runner: MMEngine's Runner or FlexibleRunner.
        cfg (Config): Its config, for the keys in the messages.
    """
    check_training(runner.model, cfg)
    late = dict(
        build_train_loop='train_cfg',
        build_val_loop='val_cfg',
        build_optim_wrapper='optim_wrapper',
        scale_lr='auto_scale_lr',
        _scale_lr='auto_scale_lr',
        build_param_scheduler='param_scheduler',
        _init_model_weights='model',
    )
    for owner in (runner, getattr(runner, 'strategy', None)):
        for name, key in late.items():
            method = getattr(owner, name, None)
            if method is not None:
                setattr(owner, name, _blaming(method, cfg, key))

    call_hook = runner.call_hook

    def call(name: str, **kwargs: Any) -> None:
        if name not in ('before_run', 'before_train'):
            call_hook(name, **kwargs)
            return
        with config_errors(cfg, 'custom_hooks'):
            call_hook(name, **kwargs)

    runner.call_hook = call


def _blaming(method: Callable[..., Any], cfg: Config, key: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with config_errors(cfg, key):
            built = method(*args, **kwargs)
            if getattr(built, 'clip_grad_kwargs', None):
                inspect.signature(built.clip_func).bind((), **built.clip_grad_kwargs)
            return built

    return wrapper


def check_training(model: nn.Module, cfg: Config) -> None:
    """Refuse ways of training that do not exist for a network.

    Args:
        model (nn.Module): The network.
        cfg (Config): The whole config.

    Raises:
        UserError: mmdet's layer-wise decay, MMEngine's efficient_conv_bn_eval, an
            unknown optimizer.
    """
    whole, model = model, unwrapped(model)
    backbones = {n: m for n, m in model.named_modules() if isinstance(m, RLA)}
    optim_wrapper = cfg.get('optim_wrapper') or {}
    constructor = optim_wrapper.get('constructor')
    if backbones and 'LearningRateDecayOptimizerConstructor' in str(constructor):
        kind = type(next(iter(backbones.values()))).__name__
        raise UserError(
            f'optim_wrapper.constructor={constructor!r} knows ConvNeXt and Swin only, '
            f"not {kind}; take constructor='mmrla.LayerDecayConstructor' with "
            'paramwise_cfg=dict(layer_decay_rate=...)'
        )
    optimizer = (optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(optimizer, str):
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            if registry.get(optimizer) is None:
                near = difflib.get_close_matches(optimizer, OPTIMIZERS.module_dict, n=1)
                hint = f'; is {near[0]!r} meant?' if near else ''
                raise UserError(
                    f'{cfg.filename}: optim_wrapper.optimizer.type={optimizer!r} is '
                    f'not in the registry of optimizers{hint}'
                )
    fused = cfg.get('efficient_conv_bn_eval') or []
    for name in [fused] if isinstance(fused, str) else fused:
        try:
            attrgetter(name)(whole)
        except AttributeError as error:
            raise UserError(
                f'{cfg.filename}: efficient_conv_bn_eval={fused!r}: '
                f'{type(whole).__name__} has no module {name!r}, it has '
                + ', '.join(name for name, _ in whole.named_children())
            ) from error
        inside = [
            type(backbone).__name__
            for path, backbone in backbones.items()
            if backbone.rla is not None and f'{path}.'.startswith(f'{name}.')
        ]
        if inside:
            raise UserError(
                f'efficient_conv_bn_eval={fused!r}: MMEngine joins a norm with the '
                f'conv before it, and in {inside[0]} what a block reads of the hidden '
                f'state is added between them; leave {name!r} out '
                '(with_cp=True saves memory instead)'
            )


def leave_nothing(cfg: Config, hook: Optional[StartHook] = None) -> None:
    """Remove what the run puts into its work_dir, if it is refused.

    To be called in a tool's main function, before the runner is built.

    Args:
        cfg (Config): The whole config.
        hook (StartHook, optional): Knows whether a training has begun; after that
            nothing is removed.
    """
    work_dir = Path(cfg.work_dir).absolute()
    made = [p for p in (work_dir, *work_dir.parents) if not p.exists()]
    dumped = work_dir / os.path.basename(cfg.filename)
    had_config = dumped.exists()

    def clean() -> None:
        if not is_main_process() or (hook and hook.has_begun):
            return
        for handler in MMLogger.get_current_instance().handlers:
            log = getattr(handler, 'baseFilename', None)
            if log and work_dir in Path(log).parents:
                handler.close()
                shutil.rmtree(Path(log).parent, ignore_errors=True)
        if not had_config:
            dumped.unlink(missing_ok=True)
        for folder in made:
            try:
                folder.rmdir()
            except OSError:  # something is in it
                break

    at_error(clean)
