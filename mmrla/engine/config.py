# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""From a config file and a tool's options to a config that can be run.

mmdet and mmpretrain each have their own ``tools/train.py`` and ``tools/test.py``. This
module does their work for both libraries; the model's class decides which is meant.
"""

import argparse
import difflib
import os.path as osp
from copy import deepcopy
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.evaluator import BaseMetric
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner
from torch import nn

from .. import compat, zoo
from ..errors import UserError, one_line
from ..registry import class_of, type_name
from ..version import __version__
from . import checks, coco
from .data import leaf_datasets
from .errors import DEBUG, config_errors
from .layout import explained

__all__ = [
    'DATALOADERS',
    'LAUNCHERS',
    'add_cfg_options',
    'add_common_arguments',
    'build_runner',
    'library',
    'load_config',
    'name_and_folder',
    'set_amp',
    'set_auto_scale_lr',
    'set_dataloader_defaults',
    'set_safe_checkpoints',
    'set_tta',
    'set_visualization',
    'set_work_dir',
    'show_in_log_dir',
    'use_log_dir',
]

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Optional top-level keys that MMEngine reads.
_OPTIONAL_KEYS = (
    'activation_checkpointing auto_scale_lr compile custom_hooks custom_imports '
    'data_preprocessor default_hooks default_scope efficient_conv_bn_eval env_cfg '
    'experiment_name find_unused_parameters launcher load_from log_level '
    'log_processor model model_wrapper_cfg optim_wrapper param_scheduler randomness '
    'resume runner_type sync_bn test_cfg test_dataloader test_evaluator train_cfg '
    'train_dataloader tta_model tta_pipeline val_cfg val_dataloader val_evaluator '
    'visualizer work_dir'
).split()


class _CfgOptions(DictAction):
    """MMEngine's DictAction with an error for arguments other than KEY=VALUE."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: Any = None
    ) -> None:
        for value in values:
            key, equals, _ = value.partition('=')
            if not equals or not all(part.strip() for part in key.split('.')):
                parser.error(
                    f'{option_string}: {value!r} is not KEY=VALUE, like '
                    'train_dataloader.batch_size=2; a value has no spaces'
                )
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, nested keys with dots: '
        'model.backbone.depth=101; lists as key="[a,b]", without spaces',
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument(
        '--work-dir',
        help='folder of logs and checkpoints; by default work_dir of the config, '
        'else work_dirs/ with the name of the config',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='what has started the processes (tools/dist_*.sh: pytorch); '
        'by default there is one process',
    )
    # torchrun says it in the environment, older launchers by this argument.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def load_config(path: str, options: Optional[Dict[str, Any]] = None) -> Config:
    """Read a config and merge the settings of ``--cfg-options`` into it.

    Args:
        path (str): The file, or the name of a config of mmrla, with or without
            its ending.
        options (dict, optional): Settings by dotted key.

    Raises:
        UserError: The file is missing, does not parse or run, or a setting does
            not go with it.
    """
    path = _find_config(path)
    try:
        cfg = Config.fromfile(path)
    except Exception as error:
        # A config is a program: any error is its own.
        raise UserError(
            f'config {path} cannot be read: {type(error).__name__}: '
            f'{one_line(error)} ({DEBUG}=1 shows where)'
        ) from error
    if options:
        for key in options:
            _check_key(cfg, key)
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f'--cfg-options does not fit {path}: {one_line(error)}'
            ) from error
    for key, value in cfg.items():
        if key.endswith(('_dataloader', '_evaluator')):
            _expand_home(value)
    return cfg


def _find_config(path: str) -> str:
    """A config's file, from its path or its name in the zoo."""
    if osp.isfile(path):
        return path
    folder, name = osp.split(path)
    name = name[: -len('.py')] if name.endswith('.py') else name
    names = zoo.list_configs()
    if not folder and name in names:
        return zoo.config_path(name)
    kind = 'is a folder, not a file' if osp.isdir(path) else 'does not exist'
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    hint = f'is {near[0]} meant? ' if near else ''
    raise UserError(
        f'config {path} {kind}; {hint}the ones of mmrla are in configs/ and can be '
        'given by name'
    )


def _check_key(cfg: Config, key: str) -> None:
    """Warn about a key that nothing reads."""
    top, known = key.split('.')[0], [*cfg, *_OPTIONAL_KEYS]
    if top not in known:
        near = difflib.get_close_matches(top, known, n=1)
        hint = f', is {near[0]!r} meant?' if near else ''
        print_log(f'--cfg-options: the config has no {top!r}{hint}', level=30)


def set_work_dir(cfg: Config, work_dir: Optional[str]) -> None:
    """Set work_dir from the option, else the config, else the config's name."""
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        name = osp.splitext(osp.basename(cfg.filename))[0]
        cfg.work_dir = osp.join('./work_dirs', name)
    cfg.work_dir = osp.expanduser(cfg.work_dir)
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise UserError(f'--work-dir {cfg.work_dir} is a file, not a folder')


def name_and_folder(option: str) -> Tuple[str, str]:
    """Parse an option NAME=FOLDER that moves a data set.

    Raises:
        argparse.ArgumentTypeError: If one is missing.
    """
    name, _, folder = option.partition('=')
    if not name or not folder:
        raise argparse.ArgumentTypeError(
            f'{option!r} is not NAME=FOLDER, like coco=data/tiny'
        )
    return name, folder


def library(cfg: Config) -> str:
    """Whose model a config has: 'mmdet', 'mmpretrain', or its scope if neither's."""
    kind = class_of(cfg.get('model') or {}, MODELS, cfg.get('default_scope'))
    for base in getattr(kind, '__mro__', ()):
        package = base.__module__.partition('.')[0]
        if package in ('mmdet', 'mmpretrain'):
            return str(package)
    return str(cfg.get('default_scope') or '')


def _expand_home(cfg: Any) -> None:
    """Expand ``~`` in the paths of a part of a config; mmdet does not."""
    is_dict = isinstance(cfg, dict)
    items = cfg.items() if is_dict else enumerate(cfg) if isinstance(cfg, list) else ()
    for key, value in list(items):
        if isinstance(value, str) and value.startswith('~'):
            cfg[key] = osp.expanduser(value)
        else:
            _expand_home(value)


def set_dataloader_defaults(cfg: Config) -> None:
    """Set the defaults of data loaders for their library and this machine."""
    is_classifier = library(cfg) == 'mmpretrain'
    for name in DATALOADERS:
        loader = cfg.get(name)
        if loader is None:
            continue
        if is_classifier:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', True)
        if not loader.get('num_workers'):
            # torch refuses to keep zero workers.
            loader['persistent_workers'] = False


def set_amp(cfg: Config) -> None:
    """Switch on mixed precision, or warn and keep float32 without a GPU."""
    kind = type_name(cfg.optim_wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(
            f'--amp: {cfg.filename} has its own optim_wrapper, {kind}; '
            'only OptimWrapper can be replaced by AmpOptimWrapper'
        )
    if not torch.cuda.is_available():
        print_log('--amp has no effect without a GPU: float32 is used', level=30)
        return
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate to the batch size of this run."""
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise UserError(
            f'--auto-scale-lr: {cfg.filename} does not say for which batch size its '
            'learning rate is; add --cfg-options auto_scale_lr.base_batch_size=N, '
            'N images on all GPUs together'
        )
    cfg.auto_scale_lr.enable = True


def set_safe_checkpoints(cfg: Config) -> ConfigDict:
    """Put SafeCheckpointHook in the place of MMEngine's CheckpointHook.

    Returns:
        ConfigDict: The config of the hook that saves checkpoints.
    """
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    # MMEngine adds the hook if it is not named; None removes it.
    hook = hooks.setdefault('checkpoint', ConfigDict(interval=1))
    if hook is None:
        return ConfigDict()
    if type_name(hook) in ('', CheckpointHook.__name__):
        hook['type'] = 'mmrla.SafeCheckpointHook'
    return hook


def set_visualization(
    cfg: Config, show: bool, show_dir: Optional[str], wait_time: float
) -> None:
    """Draw the predictions of a test."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UserError(
            f'--show and --show-dir: {cfg.filename} has no '
            'default_hooks.visualization; mmdet has DetVisualizationHook, '
            'mmpretrain VisualizationHook'
        )
    hook['show'] = show
    hook['wait_time'] = wait_time
    if type_name(hook) == 'VisualizationHook':
        hook['enable'] = True
        hook['interval'] = 1
    else:
        hook['draw'] = True
        hook['test_out_dir'] = show_dir


def show_in_log_dir(runner: Runner, show_dir: str) -> None:
    """Let mmpretrain resolve a relative folder as mmdet: WORK_DIR/TIME/show_dir."""
    for hook in runner.hooks:
        if type(hook).__name__ == 'VisualizationHook':
            hook.out_dir = osp.join(runner.log_dir, show_dir)


def set_tta(cfg: Config) -> None:
    """Switch on test-time augmentation: the config's own, else a horizontal flip."""
    leaves = list(leaf_datasets(cfg.test_dataloader.dataset, ''))
    is_classifier = library(cfg) == 'mmpretrain'
    painted = cfg.get('default_hooks', {}).get('visualization') or {}
    if is_classifier and painted.get('enable'):
        raise UserError(
            "--tta: mmpretrain's VisualizationHook cannot paint an image that is "
            'augmented; leave --show and --show-dir out'
        )
    if 'tta_model' not in cfg:
        cfg.tta_model = (
            dict(type='mmpretrain.AverageClsScoreTTA')
            if is_classifier
            else dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
            )
        )
    if 'tta_pipeline' not in cfg:
        *head, pack = deepcopy(leaves[0][1].pipeline)
        if not is_classifier:
            pack['meta_keys'] = (
                'img_id',
                'img_path',
                'ori_shape',
                'img_shape',
                'scale_factor',
                'flip',
                'flip_direction',
            )
        flip = 'RandomFlip' if is_classifier else 'mmdet.RandomFlip'
        flips = [dict(type=flip, prob=1.0), dict(type=flip, prob=0.0)]
        test = dict(type='TestTimeAug', transforms=[flips, [pack]])
        cfg.tta_pipeline = [*head, test]
    evaluators = cfg.test_evaluator
    for evaluator in evaluators if isinstance(evaluators, list) else [evaluators]:
        if 'segm' in evaluator.get('metric', ''):
            raise UserError(
                '--tta: mmdet merges boxes only, and the config evaluates masks; '
                'add --cfg-options test_evaluator.metric=bbox and '
                'model.roi_head.mask_head=None'
            )
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for _, leaf in leaves:
        leaf.pipeline = cfg.tta_pipeline


def use_log_dir(runner: Runner, metric: BaseMetric) -> None:
    """Let processes exchange results in the work_dir.

    MMEngine's default is a folder .dist_test in the current directory.
    """
    if metric.collect_device == 'cpu' and metric.collect_dir is None:
        metric.collect_dir = osp.join(runner.log_dir, 'parts')


def build_runner(cfg: Config, loops: Sequence[str]) -> Runner:
    """Build the runner and its loops, and check their data sets and metrics.

    Args:
        cfg (Config): The whole config.
        loops: Which loops to build: 'train', 'val', 'test'.

    Raises:
        UserError: The config has a value that a model, a dataset or a hook
            refuses, or data that cannot be right.
    """
    with config_errors(cfg):
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
        if not isinstance(runner.model, nn.Module):  # FlexibleRunner's, built late
            runner.model = runner.strategy.build_model(runner.model)
    # MMEngine's report of the environment lacks these.
    runner.logger.info(f'mmrla {__version__} on {compat.describe()}')
    with coco.remembered():
        with explained(cfg, loops), config_errors(cfg):
            for name in loops:
                loop = getattr(runner, f'{name}_loop')
                for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', []):
                    use_log_dir(runner, metric)
        checks.check_built(runner, loops)
    return runner
