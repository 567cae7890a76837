# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that a user can put right, shown as one line instead of a traceback."""

import ast
import difflib
import errno
import functools
import hashlib
import inspect
import os
import re
import sys
import textwrap
import traceback
from contextlib import contextmanager
from types import FrameType
from typing import (
    Any,
    Callable,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)
from urllib.error import URLError

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, Registry

from ..errors import UserError, one_line
from ..models.pretrained import WeightsMismatchError
from ..models.rla import RLA
from ..models.wiring import WiringMismatchError

__all__ = ['DEBUG', 'at_error', 'config_errors', 'one_line_errors']

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
    if isinstance(error, (URLError, TimeoutError, ConnectionError)) or (
        isinstance(error, RuntimeError) and 'invalid hash value' in str(error)
    ):
        url = _fetched(error)
        if url or isinstance(error, URLError):
            reason = one_line(getattr(error, 'reason', error))
            return _Report(
                f'weights {url or "of a URL"} cannot be fetched ({reason}); fetch the '
                'file elsewhere and name it: init_cfg.checkpoint=FILE or '
                'load_from=FILE',
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
    if _lacks_package(error):
        return _Report(one_line(error), 1)
    if isinstance(error, RuntimeError) and any(s in str(error) for s in _PEER_LOST):
        return _Report(
            f'another process of this job is gone ({one_line(error)}); '
            'its own error tells why',
            1,
        )
    return None


def _lacks_package(error: Exception) -> bool:
    """Whether mmdet or mmcv ask for a package that they can do without mostly."""
    is_kind = isinstance(error, (ImportError, RuntimeError))
    return is_kind and ' install' in str(error)


#: What is to be done if the tool that runs ends with one line.
_clean_ups: List[Callable[[], None]] = []


def at_error(clean_up: Callable[[], None]) -> None:
    """Have something done if the tool that runs ends with one line."""
    _clean_ups.append(clean_up)


def _fetched(error: BaseException) -> str:
    """What was being fetched: the name in the config, and the URL."""
    name = url = ''
    for frame in _frames(error):
        found = frame.f_locals.get('url')
        if not url and isinstance(found, str) and '://' in found:
            url = found
        if frame.f_code.co_name.startswith('load_from_'):
            name = frame.f_locals.get('filename', '')
    return f'{name} ({url})' if name and url and name != url else name or url


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

    Or of 130, as usual, when it is interrupted (Ctrl-C). Errors that are nobody's
    input keep their traceback, and all do where the
    environment variable ``MMRLA_DEBUG`` is set.
    """

    @functools.wraps(main)
    def wrapper(*args: object) -> None:
        tool = os.path.basename(sys.argv[0])
        _clean_ups.clear()
        try:
            main(*args)
        except KeyboardInterrupt:
            if os.environ.get(DEBUG):
                raise
            print(f'{tool}: interrupted', file=sys.stderr, flush=True)
            sys.exit(130)
        except Exception as error:
            report = _report(error)
            if report is None or os.environ.get(DEBUG):
                raise
            for clean_up in _clean_ups:
                clean_up()
            if _is_first(report.message):
                print(f'{tool}: error: {report.message}', file=sys.stderr, flush=True)
            sys.exit(report.status)

    return wrapper


# What is worth showing of the values of an assertion.
_PLAIN = (bool, int, float, str, tuple, list, dict, type(None))
#: What constructors raise for values that they do not take.
_COMPLAINTS = (
    ValueError,
    TypeError,
    KeyError,
    AssertionError,
    ImportError,
    NotImplementedError,
    SyntaxError,  # a class in a config of text, which MMEngine cannot write
)


@contextmanager
def config_errors(config: Union[str, Config], key: str = '') -> Iterator[None]:
    """Blame a config for what constructors raise while it is being built.

    Those of ``_COMPLAINTS``, and what mmdet raises for a package that is not there.

    Args:
        config (str or Config): The config, or its path alone; with the config the
            message names the key.
        key (str): The key to name if it is not found. Defaults to none.

    Raises:
        UserError: In place of one of these.
    """
    try:
        yield
    except (WeightsMismatchError, WiringMismatchError):
        raise
    except (*_COMPLAINTS, RuntimeError) as error:
        if not isinstance(error, _COMPLAINTS) and not _lacks_package(error):
            raise
        path, where = config, key
        if isinstance(config, Config):
            path, where = config.filename, _find_key(error, config) or key
        text = one_line(error).partition(' Please check whether the value')[0]
        if text == _EMPTY_DATASET:
            where = ''
            text = 'a data set has no image left to use; check annotations and filters'
        remedy = f' ({DEBUG}=1 shows where)'
        if isinstance(error, ValueError):
            remedy = ''
        else:
            text, remedy = _explain(error, text), _hint(error) or remedy
            name = type(error).__name__
            text = f'{name}: {text}' if text else name
        where = f'{where}: ' if where else ''
        raise UserError(f'{path}: {where}{text}{remedy}') from error


def _explain(error: BaseException, text: str) -> str:
    """What is wrong, where a library's error does not say it."""
    if isinstance(error, AssertionError):
        return _condition(error, text)
    if text.startswith('Cannot find None'):  # MMCV's, for a layer that there is not
        kind = next(_locals(error, 'layer_type'), None)
        return text.replace('None', repr(kind), 1)
    return text


def _condition(error: AssertionError, text: str) -> str:
    """What an ``assert`` asks for, whose text does not say it, and what it saw."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    try:
        lines, first = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent(''.join(lines)))
    except (OSError, SyntaxError):
        return text
    line -= max(first, 1) - 1
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and line in range(
            node.lineno, (node.end_lineno or node.lineno) + 1
        ):
            names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
            if any(name in text for name in names):
                return text
            values = [
                f'{name}={textwrap.shorten(repr(value), 120)}'
                for name, value in frame.f_locals.items()
                if name in names and isinstance(value, _PLAIN)
            ]
            condition = f'{ast.unparse(node.test)} does not hold'
            found = ': '.join([condition, ', '.join(values)]) if values else condition
            return f'{text} ({found})' if text else found
    return text


def _hint(error: BaseException) -> str:
    """What an argument or a class that there is not may be meant to be."""
    text = one_line(error)
    argument = re.search(r"unexpected keyword argument '(\w+)'", text)
    if argument:
        built = next(_locals(error, 'obj_cls'), None)
        known = [
            name
            for cls in (inspect.getmro(built) if inspect.isclass(built) else ())
            if '__init__' in vars(cls)
            for name in inspect.signature(vars(cls)['__init__']).parameters
        ]
        near = difflib.get_close_matches(argument[1], known, n=1)
        meant = f'is {near[0]!r} meant? ' if near else ''
        return f' ({meant}if a base config has it, say _delete_=True in the dict)'
    unknown = re.match(r'([\w.]+) is not in the [\w:]+ registry', text)
    if not unknown:
        return ''
    kind = _bare(unknown[1])
    registry = next(_locals(error, 'registry'), None)
    names: List[str] = []
    while isinstance(registry, Registry):
        names += registry.module_dict
        registry = registry.parent
    if kind.startswith('RLA'):
        networks = {
            name[len('RLA') :]
            for registry in (MODELS, *MODELS.children.values())
            for name, cls in registry.module_dict.items()
            if inspect.isclass(cls) and issubclass(cls, RLA)
        }
        return f' (RLA exists over {", ".join(sorted(networks))})'
    near = difflib.get_close_matches(kind, names, n=1, cutoff=0.8)
    return f' (is {near[0]!r} meant?)' if near else ''


def _locals(error: BaseException, name: str) -> Iterator[Any]:
    """Values of a local variable in the frames of an error, the innermost first."""
    return (f.f_locals[name] for f in _frames(error) if name in f.f_locals)


def _frames(error: BaseException) -> Iterator[FrameType]:
    """The frames that an error came through, the innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    yield from reversed(frames)


def _find_key(error: BaseException, cfg: Config) -> Optional[str]:
    """Key and value in a config that an error is about, like ``model.type='X'``.

    What was being built is in the frames of MMEngine's registry, a hook in its own.
    """
    for frame in _frames(error):
        values = frame.f_locals
        if frame.f_code.co_name in ('build_from_cfg', '_initialize'):
            built = values.get('cfg')
        else:
            # MMEngine raises a hook's TypeError again, where it is not 'self'.
            found = (values.get(name) for name in ('self', 'hook'))
            hook = next((value for value in found if isinstance(value, Hook)), None)
            if hook is None:
                continue
            built = dict(type=type(hook))
        if isinstance(built, Mapping) and 'type' in built:
            key = _key_of(cfg, built)
            if key is not None:
                words = re.search(r"unexpected keyword argument '(\w+)'", str(error))
                if words and words[1] in built:
                    return f'{key}.{words[1]}={built[words[1]]!r}'
                kind = built['type']
                kind = kind if isinstance(kind, str) else _bare(kind)
                return f'{key}.type={kind!r}'
            if isinstance(built['type'], str):
                key = _key_of_value(cfg, built['type'])
                if key is not None:
                    return f'{key}={built["type"]!r}'
    return None


def _key_of(cfg: Any, built: Mapping[str, Any]) -> Optional[str]:
    """The key of what was built: with these values, else of this type alone."""
    kind = _bare(built['type'])
    found = [(k, node) for k, node in _nodes(cfg, '') if _bare(node['type']) == kind]
    for key, node in found:
        try:
            if all(name in built and built[name] == node[name] for name in node):
                return key
        except Exception:  # nosec B112 - values that cannot be compared
            continue
    return found[0][0] if len(found) == 1 else None


def _key_of_value(cfg: Any, value: str) -> Optional[str]:
    """The key of a name that is not the type of a dict, as a constructor's."""
    for key, node in _nodes(cfg, ''):
        for name, found in node.items():
            if isinstance(found, str) and found == value:
                return f'{key}.{name}'
    return None


def _bare(kind: Any) -> str:
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]


def _nodes(cfg: Any, key: str) -> Iterator[Tuple[str, Mapping[str, Any]]]:
    """All dicts with a type in a config, with their keys."""
    if isinstance(cfg, Config):
        cfg = cfg._cfg_dict
    if isinstance(cfg, Mapping):
        if 'type' in cfg:
            yield key, cfg
        items: Iterable[Tuple[Any, Any]] = cfg.items()
    elif isinstance(cfg, (list, tuple)):
        items = enumerate(cfg)
    else:
        return
    for name, value in items:
        yield from _nodes(value, f'{key}.{name}' if key else str(name))
