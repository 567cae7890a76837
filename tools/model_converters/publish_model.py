#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Prepare a checkpoint for publication: weights and meta, hash in the name.

Optimizer, schedulers and logs are dropped. Eight digits of the file's SHA-256 are added
to its name, where MMEngine and torch.hub look for them. The file can be loaded with
weights_only=True.
"""

import argparse
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch

from mmrla.engine.checkpoint_io import (
    CheckpointError,
    load_foreign,
    save_file,
    sha256_of,
)
from mmrla.engine.errors import one_line_errors

_PLAIN = (bool, int, float, str, bytes, type(None), torch.Tensor)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('in_file', help='checkpoint to read')
    parser.add_argument('out_file', help='checkpoint to write, NAME.pth')
    parser.add_argument(
        '--save-keys',
        nargs='+',
        default=['meta', 'state_dict'],
        help='entries to keep (default: meta state_dict)',
    )
    return parser.parse_args(argv)


def plain(value: Any, dropped: List[str], path: str) -> Any:
    """The part of a value that consists of tensors, numbers, text and containers.

    Args:
        value: Any value.
        dropped: Collects the paths of dropped parts.
        path: Path of the value.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        items = ((k, plain(v, dropped, f'{path}.{k}')) for k, v in value.items())
        return {k: v for k, v in items if v is not dropped}
    if isinstance(value, (list, tuple, set, frozenset)):
        kept = [plain(v, dropped, f'{path}.{i}') for i, v in enumerate(value)]
        kept = [v for v in kept if v is not dropped]
        return tuple(kept) if isinstance(value, tuple) else kept
    if isinstance(value, _PLAIN):
        return value
    dropped.append(path)
    return dropped


def publish(
    in_file: str, out_file: str, save_keys: List[str]
) -> Tuple[Path, List[str]]:
    """Write the checkpoint for publication.

    Args:
        in_file: Checkpoint to read.
        out_file: Checkpoint to write, without the hash.
        save_keys: Entries to keep.

    Returns:
        The written file and the dropped parts.

    Raises:
        UserError: If there are no weights in the file or it cannot be written.
    """
    checkpoint = load_foreign(in_file)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise CheckpointError(f'{in_file}: has no state_dict')
    dropped = [key for key in checkpoint if key not in save_keys]
    kept: Dict[str, Any] = {
        key: plain(checkpoint[key], dropped, key)
        for key in checkpoint
        if key in save_keys
    }
    out = Path(out_file)
    stem = out.name[: -len('.pth')] if out.name.endswith('.pth') else out.name
    unnamed = out.with_name(f'.{stem}.{os.getpid()}.unnamed')
    save_file(kept, unnamed)
    final = out.with_name(f'{stem}-{sha256_of(unnamed)[:8]}.pth')
    os.replace(unnamed, final)
    return final, dropped


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Write the file and report what was dropped."""
    args = parse_args(argv)
    final, dropped = publish(args.in_file, args.out_file, args.save_keys)
    if dropped:
        print(f'left out:  {", ".join(dropped)}')
    print(f'written:   {final}')


if __name__ == '__main__':
    main()
