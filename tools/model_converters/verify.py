#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Run a checkpoint on a fixed input and compare it with golden outputs.

Reports the difference to a golden file (.npz: scores under the network's name, every
eighth channel of the stage outputs under NAME:feat0 to NAME:feat3) and a table of
suspicious layers. The exit status is 1 if an output differs or a layer has NaN,
infinity, only zeros or a negative variance.
"""

import argparse
import sys
from pathlib import Path
from typing import List, Optional

import numpy as np

from mmrla.checkpoints.verify import UNTRAINED, example_input, network_of, verify
from mmrla.engine.checkpoint_io import CheckpointError, load_foreign
from mmrla.engine.config import load_config
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of mmrla')
    parser.add_argument('--config', help='its config; by default the one it carries')
    parser.add_argument('--golden', metavar='FILE.npz', help='outputs to compare with')
    parser.add_argument(
        '--name', help='name in the golden file; by default the arch in the checkpoint'
    )
    parser.add_argument(
        '--shape',
        nargs=4,
        type=int,
        metavar=('N', 'C', 'H', 'W'),
        default=(2, 3, 64, 96),
        help='shape of the input (default: 2 3 64 96)',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-5,
        help='allowed max |difference| / max |golden| (default: 1e-5)',
    )
    parser.add_argument(
        '--save', metavar='FILE.npz', help='write the outputs as a golden file'
    )
    return parser.parse_args(argv)


def read_golden(path: str) -> dict:
    """The arrays in a golden file.

    Raises:
        CheckpointError: If it is no .npz file.
    """
    if not Path(path).is_file():
        raise CheckpointError(f'{path}: no such file')
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f'{path}: no .npz file of NumPy') from error


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Run the checkpoint and print the report."""
    args = parse_args(argv)
    golden = read_golden(args.golden) if args.golden else None
    checkpoint = load_foreign(args.checkpoint)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise CheckpointError(f'{args.checkpoint}: has no state_dict')
    name = args.name or (checkpoint.get('meta') or {}).get('arch') or 'model'
    cfg = load_config(args.config) if args.config else None
    model = network_of(checkpoint, args.checkpoint, cfg)
    report = verify(model, name, example_input(args.shape), golden)

    failed = False
    if golden is not None and not report.differences:
        raise CheckpointError(
            f'{args.golden}: has none of {", ".join(report.outputs)}; --name says '
            f'which of {", ".join(golden)} it is'
        )
    for key, difference in report.differences.items():
        good = difference <= args.tolerance
        failed |= not good
        print(f'{key:40} {difference:.2e} {"ok" if good else "DIFFERENT"}')
    for layer, problem in report.suspicious:
        failed |= problem != UNTRAINED
        print(f'{layer:40} {problem}')
    if not report.suspicious:
        print('no layer looks wrong')
    if args.save:
        np.savez_compressed(args.save, **report.outputs)
        print(f'written: {args.save}')
    if failed:
        sys.exit(1)


if __name__ == '__main__':
    main()
