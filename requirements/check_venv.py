# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Health of the environment that ``setup_venv.sh`` makes.

Run by the environment's own Python: ``check_venv.py PLAN REQUIREMENTS...``. Prints
a line for each problem and writes to PLAN what would mend it, a line each:
``reinstall NAME==VERSION``, ``rebuild NAME==VERSION`` (what was compiled does not
load) or ``install``. Exit status 0: healthy, 1: not.

Looks at the requirements and theirs, at each file that pip has recorded (an
interrupted install, a deleted folder), and at whether the main packages import
and mmcv's compiled operators answer.
"""

import contextlib
import importlib
import importlib.util
import io
import os
import sys
import sysconfig
import warnings
from importlib import metadata
from pathlib import Path
from typing import Callable, Dict, List, Set, Tuple

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Distributions whose files another one of the same version overwrites on purpose.
OVERLAID = {'opencv-python': 'opencv-python-headless'}
SHOWN = 8

Problem = Tuple[str, str]  # what is wrong, what mends it


def read_requirements(path: str) -> List[Requirement]:
    """The requirements of a file; ``-r`` and the like are not used here."""
    lines = Path(path).read_text(encoding='utf-8').splitlines()
    stripped = (line.partition('#')[0].strip() for line in lines)
    return [Requirement(line) for line in stripped if line]


def check_requirements(paths: List[str]) -> List[Problem]:
    """What the files and, in turn, the packages need but is not there."""
    problems: List[Problem] = []
    pending = [(r, Path(path).name) for path in paths for r in read_requirements(path)]
    seen: Set[str] = set()
    while pending:
        requirement, wanted_by = pending.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        if requirement.marker and not requirement.marker.evaluate({'extra': ''}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if not version:
            text = f'{requirement.name} is missing, {wanted_by} needs it'
            problems.append((text, 'install'))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            text = f'{requirement.name} {version} is there, '
            problems.append((f'{text}{wanted_by} needs {requirement}', 'install'))
        if requirement.name in OVERLAID:
            overlay = Requirement(f'{OVERLAID[requirement.name]}=={version}')
            pending.append((overlay, requirement.name))
        for line in metadata.requires(requirement.name) or []:
            pending.append((Requirement(line), requirement.name))
    return problems


def file_sizes(dist: metadata.Distribution) -> Dict[Path, int]:
    """Recorded files with their sizes; caches and files of no size left out."""
    return {
        Path(str(dist.locate_file(file))): file.size
        for file in dist.files or []
        if file.size is not None and file.suffix != '.pyc'
    }


def check_files() -> List[Problem]:
    """Packages of which files are missing or have another size than recorded."""
    site = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
    dists: Dict[str, metadata.Distribution] = {}
    problems: List[Problem] = []
    for dist in metadata.distributions(path=sorted(site)):
        name = dist.metadata['Name'] if dist.metadata else None
        # An install that was cut off leaves metadata without name or RECORD.
        if not name or not dist.version or dist.files is None:
            text = f'{name or "a package"} is half installed'
            problems.append((text, f'reinstall {name}=={dist.version}'))
        else:
            dists[canonicalize_name(name)] = dist
    for name, dist in dists.items():
        sizes = file_sizes(dist)
        if OVERLAID.get(name) in dists:
            for path in file_sizes(dists[OVERLAID[name]]):
                sizes.pop(path, None)
        wrong = [
            path
            for path, size in sizes.items()
            if not path.is_file() or path.stat().st_size != size
        ]
        if wrong:
            text = f'{len(wrong)} files of {name} are missing or changed'
            problems.append((text, f'reinstall {name}=={dist.version}'))
    return problems


def check_mmrla() -> List[Problem]:
    """Whether the package itself is installed, and from this folder."""
    spec = importlib.util.find_spec('mmrla')
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    mim = ROOT / 'mmrla' / '.mim'
    links = all(
        os.path.lexists(mim / name) for name in ('configs', 'tools', 'model-index.yml')
    )
    if origin == ROOT / 'mmrla' / '__init__.py' and links:
        return []
    return [('mmrla is not installed from this folder', 'install')]


def run_mmcv_ops() -> None:
    """One compiled operator, so that a wheel for another torch is noticed."""
    import torch
    from mmcv.ops import nms

    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)


def importer(module: str) -> Callable[[], object]:
    """A call that imports a module."""
    return lambda: importlib.import_module(module)


def installed_mmcv() -> str:
    """The requirement for the mmcv that is there, upstream's or OneDL's."""
    for name in ('mmcv', 'onedl-mmcv'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f'{name}=={metadata.version(name)}'
    return 'mmcv'


def check_imports() -> List[Problem]:
    """Import what everything here needs."""
    mmcv = installed_mmcv()
    steps: List[Tuple[str, Callable[[], object], str]] = [
        (name, importer(name), 'install')
        for name in ('torch', 'torchvision', 'cv2', 'mmengine', 'mmcv')
    ]
    steps += [
        ('mmcv.ops', run_mmcv_ops, f'rebuild {mmcv}'),
        ('mmdet', importer('mmdet.models'), 'install'),
        ('mmpretrain', importer('mmpretrain.models'), 'install'),
    ]
    for name, step, remedy in steps:
        noise = io.StringIO()
        try:
            with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
                step()
        # What a broken package raises is not for us to know.
        except Exception as error:
            first = (str(error).strip().splitlines() or [''])[0]
            text = f'{name} does not work: {type(error).__name__}: {first}'
            return [(text, remedy)]
    return []


def main() -> int:
    """Check, report, write the plan."""
    plan, *requirements = sys.argv[1:]
    warnings.simplefilter('ignore')
    problems = check_files() + check_requirements(requirements) + check_mmrla()
    problems = problems or check_imports()
    for text, _ in problems[:SHOWN]:
        print(f'  {text}')
    if len(problems) > SHOWN:
        print(f'  and {len(problems) - SHOWN} more')
    remedies = dict.fromkeys(remedy for _, remedy in problems)
    Path(plan).write_text(''.join(f'{r}\n' for r in remedies), encoding='utf-8')
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
