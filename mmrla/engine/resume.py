# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Where a training starts."""

import os.path as osp
from typing import List, Optional

from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast_object_list, is_main_process

from ..errors import UserError
from .checkpoint_io import is_local, is_whole, load_foreign, newest_whole
from .checks import check_file

__all__ = ['set_resume']


def set_resume(cfg: Config, resume: Optional[str], hook: ConfigDict) -> Optional[str]:
    """Set the file to resume from in the config.

    Args:
        cfg (Config): The whole config; ``resume``, ``load_from`` and the seed are
            set.
        resume (str, optional): 'auto' for the newest whole checkpoint of the
            work_dir, if there is one; a file; None for what the config says.
        hook (ConfigDict): The config of the hook that saves checkpoints.

    Returns:
        str or None: The file to resume from.

    Raises:
        UserError: The file is missing, torn or no checkpoint to resume from.
    """
    if resume is None and cfg.get('resume'):
        resume = cfg.get('load_from') or 'auto'
    if resume is None:
        return None

    if resume == 'auto':
        path = _newest_of_all(cfg, hook)
        if path is None:
            # Upstream forgets load_from here and starts from random weights.
            cfg.resume = False
            return None
    else:
        path = osp.expanduser(resume)
        check_file(path, 'checkpoint', 'name one that is there, or --resume auto')
        if is_local(path) and not is_whole(path):
            raise UserError(
                f'checkpoint {path} is truncated or no file of torch.save; '
                '--resume auto takes the newest whole one of the work_dir'
            )
    cfg.resume = True
    cfg.load_from = path
    if is_local(path):
        _set_seed(cfg, path)
    return path


def _newest_of_all(cfg: Config, hook: ConfigDict) -> Optional[str]:
    """Let the first process look, so that all use the same file."""
    found: List[Optional[str]] = [None]
    if is_main_process():
        folder = cfg.work_dir
        if hook.get('out_dir'):
            folder = osp.join(hook['out_dir'], osp.basename(osp.abspath(folder)))
        unit = 'epoch' if hook.get('by_epoch', True) else 'iter'
        template = hook.get('filename_tmpl') or f'{unit}_{{}}.pth'
        found = [newest_whole(cfg.work_dir, folder, template)]
        where = found[0] or f'the beginning, {folder} has no whole checkpoint'
        print(f'--resume auto: training starts from {where}')
    broadcast_object_list(found)
    return found[0]


def _set_seed(cfg: Config, path: str) -> None:
    """Continue with the run's seed: MMEngine builds the sampler before it loads it."""
    checkpoint = load_foreign(path, map_location='meta')
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    if not isinstance(meta, dict) or not {'epoch', 'iter'} <= set(meta):
        raise UserError(
            f'checkpoint {path} holds weights only, not the state of a training; '
            f'start a new one from it with --cfg-options load_from={path}'
        )
    randomness = cfg.setdefault('randomness', ConfigDict(seed=None))
    if randomness.get('seed') is None and isinstance(meta.get('seed'), int):
        randomness['seed'] = meta['seed']
