# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Which versions of the stack mmrla works with, and the check at import.

The OpenMMLab packages exist twice: from OpenMMLab, and from the OneDL project
under other distribution names but the same import names. The check reads the
metadata of what is installed and imports nothing of it, so that ``import mmrla``
neither needs nor loads mmdet and mmpretrain.

``setup.py`` reads ``RANGES`` from this file before anything is installed: only
the standard library may be imported at its top.
"""

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Dict, List, Optional

__all__ = ['RANGES', 'VersionConflictError', 'check_versions', 'describe', 'family']

# Import name -> distributions that provide it, the preferred one first, with
# the versions that work.
RANGES: Dict[str, Dict[str, str]] = {
    'torch': {'torch': '>=2.1'},
    'mmengine': {
        'mmengine': '>=0.10.3,<1',
        'mmengine-lite': '>=0.10.3,<1',
        'onedl-mmengine': '>=0.10.8,<1',
    },
    'mmcv': {
        'mmcv': '>=2.0.0,<2.2',
        'mmcv-lite': '>=2.0.0,<2.2',
        'onedl-mmcv': '>=2.3.0,<3',
        # The name of mmcv 1.x with compiled ops: found, never in range.
        'mmcv-full': '>=2.0.0,<2.2',
    },
    'mmdet': {'mmdet': '>=3.1,<4', 'onedl-mmdetection': '>=3.4,<4'},
    'mmpretrain': {'mmpretrain': '>=1.0,<2', 'onedl-mmpretrain': '>=1.3,<2'},
}
OPTIONAL = ('mmdet', 'mmpretrain')
ONEDL = 'onedl-'

# Import name -> what provides it here, distribution -> version.
Found = Dict[str, Dict[str, str]]


class VersionConflictError(RuntimeError):
    """What is installed cannot work with mmrla.

    Not an ``ImportError``: MMEngine's registries and ``custom_imports`` swallow
    those and would report a missing class instead.
    """


def _version(dist: str) -> Optional[str]:
    try:
        return metadata.version(dist)
    except metadata.PackageNotFoundError:
        return None


def _source_version(module: str) -> Optional[str]:
    """Version of a module that lies on the path without being installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name('version.py')
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    match = re.search(r'^__version__ *= *[\'"]([^\'"]+)', text, re.MULTILINE)
    return match.group(1) if match else None


def _find_all() -> Found:
    found: Found = {}
    for module, dists in RANGES.items():
        versions = {dist: _version(dist) for dist in dists}
        found[module] = {dist: v for dist, v in versions.items() if v}
        source = None if found[module] else _source_version(module)
        if source:
            found[module] = {next(iter(dists)): source}
    return found


def _named(dists: Dict[str, str]) -> List[str]:
    return [f'{dist} {version}' for dist, version in dists.items()]


def _family(found: Found) -> str:
    dists = [d for module in found if module != 'torch' for d in found[module]]
    names = {'OneDL' if d.startswith(ONEDL) else 'OpenMMLab' for d in dists}
    return ' and '.join(sorted(names)) or 'no'


def family() -> str:
    """Who made the installed packages: 'OpenMMLab', 'OneDL', both or 'no' one."""
    return _family(_find_all())


def describe() -> str:
    """The packages that mmrla works on and their family, in one line."""
    found, numpy = _find_all(), _version('numpy')
    names = [name for dists in found.values() for name in _named(dists)]
    names += [f'numpy {numpy}'] if numpy else []
    return f'{_family(found)} packages: {", ".join(names)}'


def _fits(version: str, allowed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(allowed).contains(version, prereleases=True)


def _conflict(there: str, needed: str, *removed: str) -> str:
    """What is there, what is needed, and the command to get it."""
    remove = f'pip uninstall -y {" ".join(removed)} && ' if removed else ''
    # mmcv is compiled against the torch that is there, which pip's isolated
    # build environment would hide.
    flag = ' --no-build-isolation' if 'mmcv' in needed else ''
    return f"{there}, {needed} is needed: {remove}pip install{flag} '{needed}'"


def _conflicts(found: Found) -> List[str]:
    conflicts = []
    for module, dists in found.items():
        if not dists and module in OPTIONAL:
            continue
        known, one = RANGES[module], len(dists) == 1
        if one and all(_fits(v, known[d]) for d, v in dists.items()):
            continue
        onedl = [d for d in known if d.startswith(ONEDL) and 'OneDL' in _family(found)]
        dist = (onedl or list(known))[0]
        there = ' and '.join(_named(dists))
        if len(dists) > 1:
            there += f' are both {module} and overwrite each other'
        else:
            there = f'{there} is installed' if one else f'{module} is not installed'
        removed = [] if list(dists) == [dist] else dists
        conflicts.append(_conflict(there, dist + known[dist], *removed))
    return conflicts


def _pair_conflicts(found: Found) -> List[str]:
    """Packages that are fine each, but not together."""
    conflicts = []
    name = {module: ' '.join(_named(dists)) for module, dists in found.items()}
    if 'mmdet' in found['mmdet'] and 'onedl-mmcv' in found['mmcv']:
        there = f'{name["mmdet"]} is installed and refuses {name["mmcv"]}'
        needed = 'onedl-mmdetection' + RANGES['mmdet']['onedl-mmdetection']
        conflicts.append(_conflict(there, needed, 'mmdet'))

    torch, numpy = found['torch']['torch'], _version('numpy')
    if numpy and _fits(torch, '<2.3') and not _fits(numpy, '<2'):
        there = f'numpy {numpy} is installed beside torch {torch}'
        conflicts.append(_conflict(there, 'numpy<2'))

    # Upstream MMEngine resolves 'mmdet::...' with pkg_resources.
    has_pkg_resources = importlib.util.find_spec('pkg_resources') is not None
    if 'onedl-mmengine' not in found['mmengine'] and not has_pkg_resources:
        version = _version('setuptools')
        there = f'setuptools {version}' if version else 'no setuptools'
        there += f' is installed and {name["mmengine"]} uses pkg_resources'
        conflicts.append(_conflict(there, 'setuptools<81'))
    return conflicts


def check_versions() -> None:
    """Refuse an environment in which mmrla cannot work.

    Raises:
        VersionConflictError: A needed package is missing, out of range, there
            twice, or does not go with another one. The message says which family
            was found and names for each package what is installed, what is needed
            and the command to get it.
    """
    if importlib.util.find_spec('packaging') is None:
        raise VersionConflictError(_conflict('packaging is not installed', 'packaging'))
    found = _find_all()
    conflicts = _conflicts(found) or _pair_conflicts(found)
    if conflicts:
        raise VersionConflictError(
            f'mmrla cannot be imported ({_family(found)} packages found): '
            + '; '.join(conflicts)
        )
