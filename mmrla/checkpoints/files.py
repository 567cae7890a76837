# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Reading checkpoints of others safely, writing ours whole or not at all."""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any, Union

import torch

from ..errors import UserError, one_line

PathLike = Union[str, Path]


class CheckpointError(UserError):
    """A checkpoint cannot be used; the message says why, in one line."""


def load_file(path: PathLike) -> Any:
    """The object in a checkpoint file, its tensors on the CPU.

    Only tensors and plain data are read (``weights_only``): a file that would
    run code while it is loaded is refused.

    Args:
        path: The file.

    Raises:
        CheckpointError: If there is no such file, if it is truncated or no
            checkpoint, or if it needs more than tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file')
    try:
        with warnings.catch_warnings():
            # torch 2.1 warns of a class that its own weights_only reader uses.
            warnings.filterwarnings('ignore', 'TypedStorage is deprecated')
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises a dozen types on broken files
        # In the words of torch 2.1, of 2.4 and newer, and of those for modules
        # that it never allows.
        unsafe = re.search(
            r'nsupported (?:class|global: GLOBAL|GLOBAL) ([\w.]+)', one_line(error)
        )
        if unsafe:
            raise CheckpointError(
                f'{path}: refused: loading it needs {unsafe[1]}, which is more than '
                'tensors and plain data and could run code; save its state dict alone'
            ) from error
        raise CheckpointError(
            f'{path}: not a checkpoint that PyTorch can read: the file is truncated '
            f'or of another kind ({os.path.getsize(path)} bytes); fetch it again'
        ) from error


def save_file(obj: Any, path: PathLike) -> None:
    """Write a checkpoint; an existing file is replaced when the new one is whole.

    Equal objects give equal bytes, whatever the file's name.

    Args:
        obj: What to save.
        path: The file; its folder is made if it does not exist.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f'{path}: is a folder; name a file')
    unfinished = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, 'xb') as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        raise CheckpointError(f'{path}: cannot be written: {reason}') from error
    finally:
        if unfinished.exists():
            unfinished.unlink()


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()
