#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Test a detector or a classifier from an mmdet or mmpretrain config."""

import argparse
import os.path as osp
from typing import List, Optional

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import LoggerHook
from mmengine.registry import METRICS

from mmrla.analysis.plots import with_palette
from mmrla.engine import DeployHook, StartHook, checks, config, data
from mmrla.engine.checkpoint_io import use_safe_loading
from mmrla.engine.errors import one_line_errors
from mmrla.engine.launch import leave_processes, set_up_processes
from mmrla.engine.start import leave_nothing
from mmrla.errors import UserError


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions to this file'
    )
    parser.add_argument(
        '--show-dir',
        help='write images with the predictions to this folder; a relative one is '
        'made in WORK_DIR/TIME/, as mmdet does',
    )
    parser.add_argument(
        '--show', action='store_true', help='show images with the predictions'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds to show an image for'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="use test-time augmentation: the config's, else a horizontal flip",
    )
    parser.add_argument(
        '--no-deploy',
        action='store_true',
        help='run RLA backbones as they train, not in the faster deployed form, '
        'which gives the same numbers to rounding',
    )
    config.add_common_arguments(parser)
    return parser.parse_args(argv)


def read_config(args: argparse.Namespace) -> Config:
    """The config with the options in it, checked as far as nothing is built."""
    cfg = config.load_config(args.config, args.cfg_options)
    config.set_work_dir(cfg, args.work_dir)
    checks.check_complete(
        cfg, ['model', 'test_dataloader', 'test_cfg', 'test_evaluator']
    )
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise UserError(f'--out {args.out} does not end with .pkl or .pickle')
    remedy = 'tools/train.py makes one'
    checks.check_checkpoint(args.checkpoint, 'checkpoint', remedy)
    config.set_dataloader_defaults(cfg)
    if args.show or args.show_dir:
        config.set_visualization(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        config.set_tta(cfg)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    return cfg


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Test."""
    args = parse_args(argv)
    cfg = read_config(args)
    set_up_processes(cfg, args.launcher, args.local_rank)
    use_safe_loading()

    leave_nothing(cfg)
    runner = config.build_runner(cfg, ['test'])
    dataset = runner.test_loop.dataloader.dataset
    hook = StartHook()
    hook.watch(runner.model)
    runner.register_hook(hook)
    if not args.no_deploy:
        runner.register_hook(DeployHook())
    if not is_main_process():
        # It writes the file of the metrics in every process, one over the other.
        runner.hooks[:] = [h for h in runner.hooks if not isinstance(h, LoggerHook)]
    if args.out:
        is_detector = config.library(cfg) == 'mmdet'
        dump = 'mmdet.DumpDetResults' if is_detector else 'DumpResults'
        metric = METRICS.build(dict(type=dump, out_file_path=osp.abspath(args.out)))
        config.use_log_dir(runner, metric)
        runner.test_evaluator.metrics.append(metric)
    meta = runner.visualizer.dataset_meta
    runner.visualizer.dataset_meta = with_palette(meta or {})
    if args.show_dir:
        config.show_in_log_dir(runner, args.show_dir)
    if args.show or args.show_dir:
        data.check_pictures(dataset, 'test_dataloader.dataset')
    runner.test()
    if args.out and metric.results:
        # An evaluator that pairs its metrics with data sets leaves this one out.
        metric.evaluate(len(dataset))
    leave_processes()


if __name__ == '__main__':
    main()
