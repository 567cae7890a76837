# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Read checkpoints without executing their code, and write them atomically."""

import hashlib
import os
import os.path as osp
import pickle
import re
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner.checkpoint import CheckpointLoader

from ..errors import UserError, one_line

__all__ = [
    'AtomicBackend',
    'CheckpointError',
    'PathLike',
    'has_form',
    'is_local',
    'is_whole',
    'load_foreign',
    'newest_whole',
    'save_file',
    'sha256_of',
    'state_dict_of',
    'use_safe_loading',
    'weights_of',
]

PathLike = Union[str, Path]


class CheckpointError(UserError):
    """A checkpoint cannot be used; the message says why, in one line."""


def is_local(path: str) -> bool:
    """Whether a checkpoint is named by a path, not by a URL or a model zoo name."""
    return '://' not in path


# --- reading ------------------------------------------------------------------

# Types of weights. MMEngine's files also hold logs (HistoryBuffer, with references to
# functions) and any metainfo of a data set, which torch's weights_only refuses. Here
# unknown types become inert instead, so that the weights can be read with every version
# of torch.
_HARMLESS: Dict[str, frozenset] = {
    'builtins': frozenset(
        'bool bytearray bytes complex dict float frozenset int list range set slice '
        'str tuple'.split()
    ),
    'collections': frozenset(['OrderedDict']),
    '_codecs': frozenset(['encode']),  # how protocol 2 writes bytes
    'numpy': frozenset(['dtype', 'ndarray']),
    'numpy.core.multiarray': frozenset(['_reconstruct', 'scalar']),
    'torch': frozenset(['Size', 'Tensor', 'device']),
    'torch._utils': frozenset(
        ['_rebuild_parameter', '_rebuild_tensor', '_rebuild_tensor_v2']
    ),
    'torch.nn.parameter': frozenset(['Parameter']),
}
_HARMLESS['numpy._core.multiarray'] = _HARMLESS['numpy.core.multiarray']
#: How ``weights_only`` names a refused type: in torch 2.1, in 2.4 and newer, and for
#: modules that are never allowed.
_UNSAFE = re.compile(r'nsupported (?:class|global: GLOBAL|GLOBAL) ([\w.]+)')
_ALIASES = {'__builtin__': 'builtins'}


class _Inert:
    """Stand-in for any other object: accepts everything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> '_Inert':
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = update = append


class _Unpickler(pickle.Unpickler):
    """Unpickles harmless types and makes all others inert."""

    def find_class(self, module: str, name: str) -> Any:
        module = _ALIASES.get(module, module)
        is_dtype = isinstance(getattr(torch, name, None), torch.dtype)
        if name in _HARMLESS.get(module, ()) or (module == 'torch' and is_dtype):
            return super().find_class(module, name)
        return _Inert


#: What ``torch.load`` takes for the pickle module.
_HARMLESS_PICKLE = SimpleNamespace(
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
    __name__='harmless_pickle',
)


def has_form(path: str) -> bool:
    """Whether a file begins and ends like one of ``torch.save``: a cheap test."""
    with open(path, 'rb') as file:
        magic = file.read(2)
    # A zip archive, before torch 1.6 pickles in a row.
    return zipfile.is_zipfile(path) if magic == b'PK' else magic[:1] == b'\x80'


def load_foreign(
    path: PathLike, map_location: Any = 'cpu', strict: bool = False
) -> Any:
    """Load an untrusted checkpoint without executing code.

    Tensors, containers, numbers and NumPy arrays are read.

    Args:
        path: A file written by ``torch.save``.
        map_location: As for ``torch.load``. Defaults to 'cpu'.
        strict: Whether a file with other objects is refused (torch's
            ``weights_only``); otherwise inert ones take their place. Defaults to
            False.

    Raises:
        CheckpointError: The file is missing, truncated, no checkpoint, or refused.
    """
    path = osp.expanduser(path)
    if not osp.isfile(path):
        kind = 'is a folder, not a file' if osp.isdir(path) else 'does not exist'
        raise CheckpointError(f'checkpoint {path} {kind}')
    # Either our unpickler, which calls nothing from the file, or torch's.
    how: Dict[str, Any] = dict(weights_only=strict)
    if not strict:
        how['pickle_module'] = _HARMLESS_PICKLE
    try:
        with warnings.catch_warnings():
            # torch 2.1 warns of a class that its own reader uses.
            warnings.filterwarnings('ignore', 'TypedStorage is deprecated')
            return torch.load(path, map_location=map_location, **how)  # nosec B614
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        # For other bytes torch and pickle raise any error, even OSError.
        text = one_line(error)
        unsafe = _UNSAFE.search(text)
        if unsafe:
            module, _, name = unsafe[1].rpartition('.')
            raise CheckpointError(
                f'checkpoint {path} refused: loading it needs '
                f'{_ALIASES.get(module, module)}.{name}, which is more than tensors '
                'and plain data and could run code; save its state dict alone'
            ) from error
        raise CheckpointError(
            f'checkpoint {path} is truncated or no file of torch.save: '
            f'{text.split(". ")[0]}'
        ) from error


def weights_of(
    checkpoint: Any, path: PathLike, entries: Tuple[str, ...] = ('state_dict',)
) -> Tuple[Optional[str], Dict[str, torch.Tensor]]:
    """The weights in a checkpoint by their names in the file.

    Args:
        checkpoint: What the file held: weights, or a dict with an entry for them.
        path: Name of the file, for the error.
        entries: Possible names of that entry; the first one found counts.

    Returns:
        The name of the entry (None where the file is the weights), the weights.

    Raises:
        CheckpointError: It holds no weights.
    """
    entry = None
    if isinstance(checkpoint, Mapping):
        entry = next((e for e in entries if e in checkpoint), None)
    weights = checkpoint if entry is None else checkpoint[entry]
    if not isinstance(weights, Mapping) or not weights:
        weights = {'': None}
    if all(isinstance(k, str) and torch.is_tensor(v) for k, v in weights.items()):
        return entry, dict(weights)
    raise CheckpointError(
        f'checkpoint {path} holds no weights: neither a dict of tensors nor one as '
        f'its {" or ".join(map(repr, entries))}'
    )


def state_dict_of(checkpoint: Any, path: PathLike) -> Dict[str, torch.Tensor]:
    """As :func:`weights_of`, without the prefix of (distributed) wrappers."""
    _, weights = weights_of(checkpoint, path)
    return {name.removeprefix('module.'): v for name, v in weights.items()}


def use_safe_loading(own: Optional[str] = None) -> None:
    """Make MMEngine read local checkpoints with :func:`load_foreign`.

    For entry points: it holds for the whole process.

    Args:
        own (str, optional): The checkpoint to resume from. It is read in full,
            with the logs that MMEngine put there: whoever resumes a training
            trusts the file, and torch 2.6 and newer would refuse it otherwise.
    """

    # MMEngine logs the name of the backend from this name's tenth letter on.
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        if own is not None and osp.realpath(filename) == osp.realpath(own):
            # The user's own training goes on from it.
            return torch.load(  # nosec B614
                filename, map_location=map_location, weights_only=False
            )
        return load_foreign(filename, map_location)

    CheckpointLoader.register_scheme('', load_from_local, force=True)


# --- whole files --------------------------------------------------------------


def is_whole(path: str) -> bool:
    """Whether a file of ``torch.save`` (a zip archive) is complete and intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # The directory is written last; the checksums find blocks that were
            # lost with the machine's power.
            return any(n.endswith('data.pkl') for n in names) and not archive.testzip()
    except (OSError, zipfile.BadZipFile):
        return False


def _numbered(folder: str, template: str) -> List[str]:
    """Numbered checkpoints, the newest first."""
    head, tail = map(re.escape, template.split('{}'))
    found = []
    for path in Path(folder).glob('*') if osp.isdir(folder) else []:
        match = re.fullmatch(f'{head}([0-9]+){tail}', path.name)
        if match and path.is_file():
            found.append((path.stat().st_mtime_ns, int(match.group(1)), str(path)))
    return [path for _, _, path in sorted(found, reverse=True)]


def newest_whole(work_dir: str, folder: str, template: str) -> Optional[str]:
    """The checkpoint to resume from: the last one that is complete.

    Args:
        work_dir (str): Where ``last_checkpoint`` names the last one.
        folder (str): Where the checkpoints are.
        template (str): Their names, '{}' for the number.

    Returns:
        str or None: The one named in ``last_checkpoint``, else the newest intact
        file of the template.
    """
    candidates = _numbered(folder, template)
    pointer = Path(work_dir, 'last_checkpoint')
    if pointer.is_file():
        last = pointer.read_text(encoding='utf-8', errors='replace').strip()
        if last and '\0' not in last:
            candidates = [last] + [c for c in candidates if c != last]
    for path in candidates:
        if is_whole(path):
            return path
        print(f'{path} is missing or torn, an older checkpoint is looked for')
    return None


@contextmanager
def _whole_file(path: Path, remedy: str) -> Iterator[IO[bytes]]:
    """Write a temporary file, sync it to the disk and rename it.

    Raises:
        CheckpointError: The disk is full or refuses the file. What was there stays
            as it was.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open('wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        text = f'cannot write {path}: {reason}; {remedy}'
        raise CheckpointError(text, status=1) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def save_file(obj: Any, path: PathLike) -> None:
    """Write a checkpoint; an existing file is replaced once the new one is complete.

    Equal objects give equal bytes, whatever the file's name.

    Args:
        obj: What to save.
        path: The file; its folder is made if it does not exist.

    Raises:
        CheckpointError: The file cannot be written.
    """
    with _whole_file(Path(path), 'make room or name another file') as file:
        torch.save(obj, file)


def sha256_of(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


@register_backend('mmrla-atomic', force=True)
class AtomicBackend(LocalBackend):
    """Local files that get their name only when they are complete.

    Removed files are deleted by :meth:`remove_outdated`, after their replacement has
    been written.
    """

    def __init__(self) -> None:
        self.outdated: List[str] = []

    def put(self, obj: bytes, filepath: PathLike) -> None:
        """Write bytes to a file; errors as of :func:`save_file`."""
        remedy = (
            'the checkpoints before it are whole: make room, then go on with --resume'
        )
        with _whole_file(Path(filepath), remedy) as file:
            file.write(obj)

    def remove(self, filepath: Any) -> None:
        """Remember a file as outdated."""
        self.outdated.append(str(filepath))

    def remove_outdated(self, keep: List[str]) -> None:
        """Delete the outdated files except those to keep."""
        for path in set(self.outdated) - set(keep):
            Path(path).unlink(missing_ok=True)
        self.outdated.clear()


def _sync_folder(folder: Path) -> None:
    """Sync a renaming to the disk, if the file system can.

    Windows opens no folder, and network mounts refuse in many ways; the file is whole.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
