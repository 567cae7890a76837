#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Check the data that a config trains and tests with, before it does.

Looks at folders, annotation files, classes and images, as tools/train.py does before
the first epoch; at all images, however long it takes. docs/data.md has the layouts.
"""

import argparse
from typing import List, Optional

from mmengine.registry import DATASETS, DefaultScope

from mmrla.engine import checks, config, layout
from mmrla.engine.coco import checked_annotations
from mmrla.engine.errors import config_errors, one_line_errors

PARTS = ('train', 'val', 'test')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of a check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--parts', nargs='+', choices=PARTS, default=list(PARTS), help='(default: all)'
    )
    config.add_cfg_options(parser)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Check, and tell what is there."""
    args = parse_args(argv)
    cfg = config.load_config(args.config, args.cfg_options)
    parts = [part for part in args.parts if cfg.get(f'{part}_dataloader')]
    checks.check_data(cfg, parts)
    for part in parts:
        dataset_cfg = cfg[f'{part}_dataloader'].dataset
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            with config_errors(args.config), checked_annotations():
                dataset = DATASETS.build(dataset_cfg)
        layout.check_samples(dataset, f'{part}_dataloader.dataset')
        layout.check_image_files(dataset)
        classes = dataset.metainfo.get('classes') or ()
        root = next(config.leaf_datasets(dataset_cfg, ''))[1].get('data_root')
        print(f'{part}: {len(dataset)} images, {len(classes)} classes, from {root}')


if __name__ == '__main__':
    main()
