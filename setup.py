# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Build of mmrla, with what mim and MMEngine look for in ``mmrla/.mim``.

``configs``, ``tools``, ``demo`` and ``model-index.yml`` lie at the top of the
repository and are carried inside the package: as copies in a wheel, as links in an
editable install, so that a config edited in the repository is the one that is used.
"""

import os
import runpy
import shutil
from pathlib import Path
from typing import Dict, Iterator, List

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.develop import develop

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'demo', 'model-index.yml')


def mim_files() -> Iterator[Path]:
    """The files that ``mmrla/.mim`` carries, relative to the repository."""
    for name in MIM:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob('*')):
            hidden = any(part.startswith('.') for part in path.relative_to(ROOT).parts)
            compiled = path.suffix == '.pyc'
            if path.is_file() and not hidden and not compiled:
                yield path.relative_to(ROOT)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def link_mim() -> None:
    """Make ``mmrla/.mim`` in the source tree, for an editable install."""
    folder = ROOT / 'mmrla' / '.mim'
    folder.mkdir(exist_ok=True)
    for name in MIM:
        link = folder / name
        remove(link)
        try:
            link.symlink_to(os.path.relpath(ROOT / name, folder))
        except OSError:  # a file system or a user without symbolic links
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, link)


class BuildPy(build_py):
    """``build_py`` that adds ``mmrla/.mim`` to every kind of build.

    Wheels, ``pip install .`` and editable wheels all run this command, the last
    with ``editable_mode``; what the command says of its files also makes the
    sdist and setuptools' strict editable installs complete.
    """

    def run(self) -> None:
        """Build the package, then ``.mim``."""
        super().run()
        if self.editable_mode:
            link_mim()
            return
        # A build folder that is used again may hold files that are gone.
        remove(Path(self.build_lib, 'mmrla', '.mim'))
        for target, source in self.mim_mapping().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target)

    def mim_mapping(self) -> Dict[str, str]:
        """Where each file of ``.mim`` goes in the build folder."""
        folder = Path(self.build_lib, 'mmrla', '.mim')
        return {str(folder / path): str(path) for path in mim_files()}

    def get_outputs(self, include_bytecode: bool = True) -> List[str]:
        """Every file that the command makes."""
        return super().get_outputs(include_bytecode) + list(self.mim_mapping())

    def get_output_mapping(self) -> Dict[str, str]:
        """Every file that the command makes, with its source."""
        return {**super().get_output_mapping(), **self.mim_mapping()}

    def get_source_files(self) -> List[str]:
        """Every file that the command reads."""
        return super().get_source_files() + list(self.mim_mapping().values())


class Develop(develop):
    """The editable install of pip's old kind, which runs no ``build_py``."""

    def run(self) -> None:
        """Link ``.mim``, then install."""
        link_mim()
        super().run()


def requirements(name: str) -> List[str]:
    """The lines of ``requirements/NAME.txt`` that are requirements."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (line.partition('#')[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


RANGES = runpy.run_path(str(ROOT / 'mmrla' / 'compat.py'))['RANGES']


def dist(name: str) -> str:
    """The requirement of a distribution that mmrla.compat knows."""
    return next(name + dists[name] for dists in RANGES.values() if name in dists)


# mmengine and mmcv are in an extra, as mmdet and mmpretrain have it: named here
# they would be installed over a OneDL fork, which has the same import names, and
# mmcv would be compiled without sight of torch. `import mmrla` checks them.
EXTRAS = {
    'mim': [dist('mmengine'), dist('mmcv'), 'setuptools<81'],
    'onedl': [dist('onedl-mmengine'), dist('onedl-mmcv')],
    'mmdet': [dist('mmdet'), 'pycocotools>=2.0.6,<3'],
    'mmpretrain': [dist('mmpretrain'), 'torchvision>=0.16'],
    'demo': requirements('demo'),
    'look': requirements('look'),
    'runtimes': requirements('runtimes'),
    'tests': requirements('tests'),
}
EXTRAS['all'] = [r for name, rs in EXTRAS.items() if name != 'onedl' for r in rs]

readme = ROOT / 'README.md'
setup(
    name='mmrla',
    version=runpy.run_path(str(ROOT / 'mmrla' / 'version.py'))['__version__'],
    description='RLA-Net (recurrent layer aggregation) for MMDetection and MMPretrain',
    long_description=readme.read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='mmrla contributors',
    license='Apache-2.0',
    keywords='computer vision, image classification, object detection, RLA-Net',
    packages=find_packages(include=['mmrla', 'mmrla.*']),
    include_package_data=False,
    python_requires='>=3.9',
    install_requires=[dist('torch'), 'numpy>=1.22,<3', 'packaging>=21'],
    extras_require=EXTRAS,
    entry_points={'console_scripts': ['mmrla=mmrla.cli:main']},
    cmdclass={'build_py': BuildPy, 'develop': Develop},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.9',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
