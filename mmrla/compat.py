# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Which versions of the stack mmrla works with, and the check at import.

The OpenMMLab packages exist twice: from OpenMMLab, and from the OneDL project
under other distribution names but the same import names. Both are known here.
The check reads the metadata of what is installed and imports nothing of it, so
that neither mmdet nor mmpretrain is needed or loaded by ``import mmrla``.

``setup.py`` reads ``RANGES`` from this file before anything is installed: only
the standard library may be imported at its top.
"""

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

__all__ = ['RANGES', 'VersionConflictError', 'check_versions', 'describe', 'family']

# Import name -> distributions that provide it, the preferred one first, with
# the versions that work. OneDL distributions are told by their prefix.
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
    'mmdet': {
        'mmdet': '>=3.1,<4',
        'onedl-mmdetection': '>=3.4,<4',
    },
    'mmpretrain': {
        'mmpretrain': '>=1.0,<2',
        'onedl-mmpretrain': '>=1.3,<2',
    },
}
OPTIONAL = ('mmdet', 'mmpretrain')
ONEDL = 'onedl-'

# What is found of each module of RANGES: more than one is a conflict.
Found = Dict[str, List['Installed']]


class VersionConflictError(RuntimeError):
    """What is installed cannot work with mmrla.

    Not an ``ImportError``: MMEngine's registries and ``custom_imports`` swallow
    those and would report a missing class instead.
    """


class Installed(NamedTuple):
    """A distribution found in the environment."""

    dist: str
    version: str

    def __str__(self) -> str:
        return f'{self.dist} {self.version}'


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
    return {module: _find(module) for module in RANGES}


def _find(module: str) -> List[Installed]:
    """All distributions in the environment that provide a module."""
    versions = [(dist, _version(dist)) for dist in RANGES[module]]
    found = [Installed(dist, version) for dist, version in versions if version]
    if not found:
        version = _source_version(module)
        if version:
            found.append(Installed(next(iter(RANGES[module])), version))
    return found


def _fits(version: str, allowed: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(allowed).contains(version, prereleases=True)


def _install(*requirements: str) -> str:
    # mmcv is compiled against the torch that is there, which pip's isolated
    # build environment would hide.
    flag = ' --no-build-isolation' if any('mmcv' in r for r in requirements) else ''
    return f'pip install{flag} ' + ' '.join(f"'{r}'" for r in requirements)


def _family(found: Found) -> str:
    names = {
        'OneDL' if d.dist.startswith(ONEDL) else 'OpenMMLab'
        for module, dists in found.items()
        for d in dists
        if module != 'torch'
    }
    return ' and '.join(sorted(names)) or 'no'


def family() -> str:
    """Who made the installed packages: 'OpenMMLab', 'OneDL', both or 'no' one."""
    return _family(_find_all())


def describe() -> str:
    """The packages that mmrla works on and their family, in one line."""
    found = _find_all()
    numpy = _version('numpy')
    names = [str(d) for dists in found.values() for d in dists]
    names += [f'numpy {numpy}'] if numpy else []
    return f'{_family(found)} packages: {", ".join(names)}'


def _needed(module: str, found: Found) -> str:
    """The requirement to name for a module, of the family that is in use."""
    onedl = 'OneDL' in _family(found)
    dists = RANGES[module]
    dist = next((d for d in dists if onedl and d.startswith(ONEDL)), next(iter(dists)))
    return dist + dists[dist]


def _conflicts(found: Found) -> List[str]:
    conflicts = []
    for module, dists in found.items():
        needed = _needed(module, found)
        if not dists:
            if module not in OPTIONAL:
                conflicts.append(
                    f'{module} is not installed, {needed} is needed: {_install(needed)}'
                )
        elif len(dists) > 1:
            conflicts.append(
                f'{" and ".join(map(str, dists))} are both installed as {module!r} '
                f'and overwrite each other, one is needed: pip uninstall -y '
                f'{" ".join(d.dist for d in dists)} && {_install(needed)}'
            )
        elif not _fits(dists[0].version, RANGES[module][dists[0].dist]):
            replace = dists[0].dist != re.split('[<>=]', needed)[0]
            remove = f'pip uninstall -y {dists[0].dist} && ' if replace else ''
            conflicts.append(
                f'{dists[0]} is installed, {needed} is needed: '
                f'{remove}{_install(needed)}'
            )
    return conflicts


def _pair_conflicts(found: Found) -> List[str]:
    """Packages that are fine each, but not together."""
    conflicts = []
    one = {module: dists[0] for module, dists in found.items() if dists}

    mmdet, mmcv = one.get('mmdet'), one['mmcv']
    if mmdet and mmdet.dist == 'mmdet' and mmcv.dist == 'onedl-mmcv':
        needed = 'onedl-mmdetection' + RANGES['mmdet']['onedl-mmdetection']
        conflicts.append(
            f'{mmdet} is installed and refuses {mmcv}, {needed} is needed: '
            f'pip uninstall -y mmdet && {_install(needed)}'
        )

    torch, numpy = one['torch'], _version('numpy')
    if numpy and _fits(torch.version, '<2.3') and not _fits(numpy, '<2'):
        conflicts.append(
            f'numpy {numpy} is installed, torch {torch.version} needs numpy<2: '
            f'{_install("numpy<2")}'
        )

    # Upstream MMEngine resolves 'mmdet::...' with pkg_resources.
    mmengine = one['mmengine']
    if not mmengine.dist.startswith(ONEDL) and not importlib.util.find_spec(
        'pkg_resources'
    ):
        setuptools = _version('setuptools')
        what = f'setuptools {setuptools}' if setuptools else 'no setuptools'
        conflicts.append(
            f'{what} is installed and has no pkg_resources, {mmengine} needs '
            f'setuptools<81: {_install("setuptools<81")}'
        )
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
        raise VersionConflictError(
            f'mmrla needs packaging, which is not installed: {_install("packaging")}'
        )
    found = _find_all()
    conflicts = _conflicts(found) or _pair_conflicts(found)
    if conflicts:
        raise VersionConflictError(
            f'mmrla cannot be imported ({_family(found)} packages found): '
            + '; '.join(conflicts)
        )
