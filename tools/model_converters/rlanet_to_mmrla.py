#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of the released RLANet code to mmrla.

Reads the published .pth.tar and .pth files, and others written by the released code,
and writes a checkpoint for the matching config. A plain ResNet needs no conversion:
name it in the config.
"""

import argparse
from pathlib import Path
from typing import List, Optional

from mmrla.checkpoints.convert import TASKS, Converted, convert
from mmrla.checkpoints.released import NAMES
from mmrla.engine.checkpoint_io import save_file
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='checkpoint to read')
    parser.add_argument(
        'dst', help='checkpoint to write; an existing one is replaced at the end'
    )
    parser.add_argument(
        '--arch',
        metavar='NAME',
        help=f"the network's name in the released code: {NAMES}; by default what the "
        'file says, else what its names and shapes are',
    )
    parser.add_argument(
        '--task',
        choices=TASKS,
        default='auto',
        help='classification or detection file; auto (default) goes by the names',
    )
    parser.add_argument(
        '--save-config',
        metavar='FILE.py',
        help='write the config that the checkpoint carries to this file too',
    )
    return parser.parse_args(argv)


def describe(converted: Converted) -> List[str]:
    """Describe what was recognised."""
    arch, meta = converted.network.arch, converted.checkpoint['meta']
    network = f'{converted.detector} with {arch}' if converted.detector else arch
    lines = [
        f'network:   {network} ({converted.arch_from})',
        f'config:    configs/{converted.config}',
    ]
    lines += [f'with:      {k}={v!r}' for k, v in converted.network.options.items()]
    if converted.published:
        lines.append(
            f'published: {converted.published.describe()}, for the file '
            f'{converted.published.name}'
        )
    lines.append(f'source:    sha256 {meta["source"]["sha256"]}')
    return lines + [f'note:      {note}' for note in converted.notes]


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Convert the file, report what it is, write the result."""
    args = parse_args(argv)
    converted = convert(args.src, args.arch, args.task)
    print('\n'.join(describe(converted)))
    save_file(converted.checkpoint, args.dst)
    weights = converted.checkpoint['state_dict']
    print(f'written:   {args.dst} ({len(weights)} tensors)')
    if args.save_config:
        Path(args.save_config).write_text(converted.checkpoint['meta']['cfg'])
        print(f'written:   {args.save_config}')


if __name__ == '__main__':
    main()
