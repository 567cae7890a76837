#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Check the data that a config trains and tests with.

Looks at folders, annotation files, classes and images, as tools/train.py does before
the first epoch; at all images, however long it takes. docs/data.md has the layouts.
"""

import argparse
from typing import List, Optional

from mmrla.engine import coco, config, data, layout
from mmrla.engine.errors import one_line_errors

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
    built = []
    for part in parts:
        key = f'{part}_dataloader.dataset'
        with coco.remembered():
            dataset = layout.build_dataset(cfg, part)
            built.append((key, dataset))
            text = data.check_data(dataset, key)
        if cfg.get(f'{part}_evaluator'):
            evaluator = layout.build_evaluator(cfg, part)
            data.check_metrics(dataset, evaluator, f'{part}_evaluator')
        print(f'{part}: {text}')
    data.check_same_folders(built)


if __name__ == '__main__':
    main()
