# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The pinned stacks are complete and in the ranges that mmrla allows."""

import re
from pathlib import Path
from typing import Dict

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmrla import compat

ROOT = Path(__file__).parents[1]


STACKS = {p.stem: p for p in sorted(ROOT.glob('requirements/stacks/*.txt'))}
STACKS['default'] = ROOT / 'requirements.txt'


def _pins(path: Path, python: str) -> Dict[str, SpecifierSet]:
    """Distribution -> versions that a stack's file allows for a Python."""
    environment = {'python_version': python}  # the rest is this machine's
    lines = (line.partition('#')[0].strip() for line in path.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {
        r.name: r.specifier
        for r in requirements
        if r.marker is None or r.marker.evaluate(environment)
    }


def _pythons(path: Path) -> list:
    (line,) = re.findall(r'^# Pythons: (.+)$', path.read_text(), re.MULTILINE)
    return line.split()


@pytest.mark.parametrize('name', STACKS)
def test_stack_pins_every_package_in_range(name: str) -> None:
    """One allowed version of each package for each Python."""
    for python in _pythons(STACKS[name]):
        pins = _pins(STACKS[name], python)
        for module, dists in compat.RANGES.items():
            (dist,) = (d for d in dists if d in pins)
            (pin,) = pins[dist]
            assert pin.operator == '==', (name, module)
            assert pin.version in SpecifierSet(dists[dist]), (name, module)
        assert {'numpy', 'opencv-python', 'setuptools', 'torchvision'} <= set(pins)


def test_stacks_cover_promised_pythons_and_families() -> None:
    pythons = {p for path in STACKS.values() for p in _pythons(path)}
    assert pythons == {'3.9', '3.10', '3.11', '3.12'}
    families = {
        'OneDL' if 'onedl-mmcv' in _pins(path, '3.11') else 'OpenMMLab'
        for path in STACKS.values()
    }
    assert families == {'OneDL', 'OpenMMLab'}
    setup = (ROOT / 'setup.py').read_text()
    assert set(re.findall(r'Python :: (3\.\d+)', setup)) == pythons
