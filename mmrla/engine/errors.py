# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that a user can put right, shown as one line instead of a traceback."""

import errno
import functools
import hashlib
import os
import sys
from contextlib import contextmanager
from typing import Callable, Iterator, NamedTuple, Optional
from urllib.error import URLError

import torch

from ..errors import UserError, one_line
from ..models.pretrained import WeightsMismatchError
from ..models.wiring import WiringMismatchError

__all__ = ['DEBUG', 'config_errors', 'one_line_errors']

#: Environment variable that brings the tracebacks back.
DEBUG = 'MMRLA_DEBUG'
# Environment variable with a folder that the processes of a machine share, made by
# tools/dist_run.py.
_SHARED_FOLDER = 'MMRLA_SHARED_FOLDER'

# Faults of the machine or of a path, not of a program.
_ENVIRONMENT_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# What gloo says when the process at the other end is gone.
_PEER_LOST = (
    'Connection closed by peer',
    'Connection reset by peer',
    'Connection refused',
    'Broken pipe',
)
# What mmcv's LoadImageFromFile says of a file that is no image.
_NO_IMAGE = 'failed to load image: '
# What MMEngine's BaseDataset says, by way of numpy, if it has no image.
_EMPTY_DATASET = 'need at least one array to concatenate'


class _Report(NamedTuple):
    message: str
    status: int


def _report(error: Exception) -> Optional[_Report]:
    """How to show an error, None for one that needs its traceback."""
    if isinstance(error, UserError):
        return _Report(str(error), error.status)
    if isinstance(error, (WeightsMismatchError, WiringMismatchError)):
        return _Report(one_line(error), 2)
    if isinstance(error, URLError):
        return _Report(
            f'weights cannot be fetched ({one_line(error.reason)}); fetch the file '
            'elsewhere and name it: init_cfg.checkpoint=FILE or load_from=FILE',
            1,
        )
    if isinstance(error, OSError) and (
        isinstance(error, _ENVIRONMENT_ERRORS) or error.errno in _DISK_ERRORS
    ):
        # An error in a worker of a data loader comes with the worker's traceback
        # as its text; the last line is the error.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return _Report(lines[-1], 1)
    if isinstance(error, AssertionError) and _NO_IMAGE in str(error):
        path = str(error).rpartition(_NO_IMAGE)[2].strip()
        return _Report(f'image {path} cannot be read: it is cut off or no image', 1)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return _Report(
            f'{one_line(error).split(". ")[0]}; use smaller batches '
            '(train_dataloader.batch_size), smaller images, --amp or '
            'model.backbone.with_cp=True',
            1,
        )
    if isinstance(error, RuntimeError) and any(s in str(error) for s in _PEER_LOST):
        return _Report(
            f'another process of this job is gone ({one_line(error)}); '
            'its own error tells why',
            1,
        )
    return None


def _is_first(message: str) -> bool:
    """Whether no other process of this machine has shown the same message.

    They mostly fail alike, and one line says it.
    """
    folder = os.environ.get(_SHARED_FOLDER)
    if not folder:
        return True
    name = hashlib.sha256(message.encode()).hexdigest()
    try:
        open(os.path.join(folder, name), 'x').close()
    except FileExistsError:
        return False
    except OSError:  # better twice than not at all
        pass
    return True


def one_line_errors(main: Callable[..., None]) -> Callable[..., None]:
    """Make a tool's ``main`` end with one line and an exit status of 1 or 2.

    Errors that are nobody's input keep their traceback, and all do where the
    environment variable ``MMRLA_DEBUG`` is set.
    """

    @functools.wraps(main)
    def wrapper(*args: object) -> None:
        try:
            main(*args)
        except Exception as error:
            report = _report(error)
            if report is None or os.environ.get(DEBUG):
                raise
            if _is_first(report.message):
                tool = os.path.basename(sys.argv[0])
                print(f'{tool}: error: {report.message}', file=sys.stderr, flush=True)
            sys.exit(report.status)

    return wrapper


@contextmanager
def config_errors(config: str) -> Iterator[None]:
    """Blame a config for what constructors raise while it is being built.

    Args:
        config (str): Path of the config.

    Raises:
        UserError: In place of a ValueError, TypeError, KeyError, AssertionError
            or ImportError.
    """
    try:
        yield
    except (WeightsMismatchError, WiringMismatchError):
        raise
    except ValueError as error:
        text = str(error)
        if text == _EMPTY_DATASET:
            text = 'a data set has no image left to use; check annotations and filters'
        raise UserError(f'{config}: {text}') from error
    except (TypeError, KeyError, AssertionError, ImportError) as error:
        remedy = f'{DEBUG}=1 shows where'
        if 'unexpected keyword argument' in str(error):
            remedy = 'if a base config has it, say _delete_=True in the dict'
        raise UserError(
            f'{config}: {type(error).__name__}: {one_line(error)} ({remedy})'
        ) from error
