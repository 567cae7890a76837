#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a checkpoint of mmrla to the names of the released RLANet code.

A checkpoint made by rlanet_to_mmrla.py gets back the names, order and tensors of the
original file, without the optimizer's state.
"""

import argparse
from typing import List, Optional

from mmrla.checkpoints.convert import export
from mmrla.engine.checkpoint_io import load_foreign, save_file
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='checkpoint of mmrla')
    parser.add_argument(
        'dst', help='checkpoint to write; an existing one is replaced at the end'
    )
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Convert the file and write the result."""
    args = parse_args(argv)
    exported = export(load_foreign(args.src))
    save_file(exported.checkpoint, args.dst)
    print(f'network:   {exported.arch}')
    for note in exported.notes:
        print(f'note:      {note}')
    print(f'written:   {args.dst}')


if __name__ == '__main__':
    main()
