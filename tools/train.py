#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Train a detector or a classifier from an mmdet or mmpretrain config."""

import argparse
from typing import List, Optional

from mmengine.config import Config

from mmrla.engine import StartHook, StepSeedHook, checks, config, resume
from mmrla.engine.checkpoint_io import use_safe_loading
from mmrla.engine.errors import one_line_errors
from mmrla.engine.launch import leave_processes, set_up_processes
from mmrla.engine.start import blame_config, leave_nothing


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on with a training from a checkpoint; auto (or nothing) means the '
        'newest whole one in the work_dir, or the beginning if there is none',
    )
    parser.add_argument('--amp', action='store_true', help='use mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the number of images in a batch, of all '
        'processes together',
    )
    config.add_common_arguments(parser)
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> Config:
    """The config with the options in it, checked as far as nothing is built."""
    cfg = config.load_config(args.config, args.cfg_options)
    config.set_work_dir(cfg, args.work_dir)
    checks.check_complete(
        cfg, ['model', 'train_dataloader', 'train_cfg', 'optim_wrapper']
    )
    config.set_dataloader_defaults(cfg)
    if args.amp:
        config.set_amp(cfg)
    if args.auto_scale_lr:
        config.set_auto_scale_lr(cfg)
    checks.check_pretrained_files(cfg)
    if cfg.get('load_from'):
        remedy = 'name another with --cfg-options load_from=FILE'
        checks.check_checkpoint(cfg.load_from, 'checkpoint', remedy)
    return cfg


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Train."""
    args = parse_args(argv)
    cfg = read_config(args)
    checkpoint_hook = config.set_safe_checkpoints(cfg)
    set_up_processes(cfg, args.launcher, args.local_rank)
    use_safe_loading(own=resume.set_resume(cfg, args.resume, checkpoint_hook))

    hook = StartHook()
    leave_nothing(cfg, hook)
    runner = config.build_runner(cfg, ['train', 'val'])
    hook.watch(runner.model)
    runner.register_hook(hook)
    runner.register_hook(StepSeedHook())
    blame_config(runner, cfg)
    runner.train()
    leave_processes()


if __name__ == '__main__':
    main()
