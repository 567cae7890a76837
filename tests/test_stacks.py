# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The pinned stacks: their files, the choice between them, their table."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Dict

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mmrla import compat

from .conftest import load_tool

ROOT = Path(__file__).parents[1]


tool = load_tool('misc/update_compatibility')
STACKS: Dict[str, Path] = tool.stack_files()


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
def test_stack_is_complete_and_in_range(name: str) -> None:
    """For each Python one pinned version of each package, which mmrla allows."""
    for python in _pythons(STACKS[name]):
        pins = _pins(STACKS[name], python)
        for module, dists in compat.RANGES.items():
            (dist,) = (d for d in dists if d in pins)
            (pin,) = pins[dist]
            assert pin.operator == '==', (name, module)
            assert pin.version in SpecifierSet(dists[dist]), (name, module)
        assert {'numpy', 'opencv-python', 'setuptools', 'torchvision'} <= set(pins)


def test_stacks_span_what_is_promised() -> None:
    pythons = {p for path in STACKS.values() for p in _pythons(path)}
    assert pythons == {'3.9', '3.10', '3.11', '3.12'}
    families = {
        'OneDL' if 'onedl-mmcv' in _pins(path, '3.11') else 'OpenMMLab'
        for path in STACKS.values()
    }
    assert families == {'OneDL', 'OpenMMLab'}
    setup = (ROOT / 'setup.py').read_text()
    assert set(re.findall(r'Python :: (3\.\d+)', setup)) == pythons


@pytest.mark.parametrize('stack', ['nonesuch', '../x', 'default modern', '.*'])
def test_unknown_stack_is_named_with_the_known_ones(stack: str) -> None:
    done = subprocess.run(
        ['bash', str(ROOT / 'requirements/setup_venv.sh'), stack],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'error: STACK={stack} is not known; there are default, ')
    assert all(name in line for name in STACKS)


@pytest.mark.parametrize(
    ('stack', 'python', 'work_dir'),
    [
        ([], '.venv/bin/python', 'work_dirs/demo'),
        (['STACK=default'], '.venv/bin/python', 'work_dirs/demo'),
        (['STACK=modern'], '.venv-modern/bin/python', 'work_dirs/demo-modern'),
    ],
)
def test_targets_take_the_environment_of_their_stack(stack, python, work_dir) -> None:
    make = ['make', '-n', '-C', str(ROOT), '--no-print-directory']
    # Without what a make that runs these tests was told.
    told = ('MAKEFLAGS', 'MAKEOVERRIDES', 'MFLAGS', 'STACK')
    env = {name: value for name, value in os.environ.items() if name not in told}
    done = subprocess.run(
        [*make, 'demo', *stack], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    name = stack[0].partition('=')[2] if stack else ''
    assert done.stdout.splitlines() == [
        f"bash requirements/setup_venv.sh '{name}'",
        f'{python} demo/run_demo.py --work-dir {work_dir}',
    ]


def test_table_is_up_to_date() -> None:
    records = tool.read_records()
    assert tool.README.read_text() == tool.readme_text(records), f'run {tool.__file__}'


@pytest.mark.parametrize('name', tool.read_records())
def test_record_is_of_the_pinned_versions(name: str) -> None:
    """A stack whose pins have changed has to be run again."""
    record = tool.read_records()[name]
    python = '.'.join(record['python'].split('.')[:2])
    assert python in _pythons(STACKS[name])
    for dist, allowed in _pins(STACKS[name], python).items():
        if dist != 'setuptools':
            assert record['packages'][dist] in allowed, (
                f'make compatibility STACK={name}'
            )


def _junit(path: Path, seconds: float, **outcomes: str) -> str:
    """A file of pytest --junitxml: test -> '', 'failure', 'error' or 'skipped'."""
    cases = ''.join(
        f'<testcase classname="tests.test_x" name="{name}">'
        + (f'<{outcome} message="m">text</{outcome}>' if outcome else '')
        + '</testcase>'
        for name, outcome in outcomes.items()
    )
    suite = f'<testsuite name="pytest" time="{seconds}">{cases}</testsuite>'
    path.write_text(f'<testsuites>{suite}</testsuites>')
    return str(path)


def test_recording(monkeypatch, tmp_path, capsys) -> None:
    readme = tmp_path / 'README.md'
    readme.write_text(f'before\n{tool.START}\nold\n{tool.END}\nafter\n')
    monkeypatch.setattr(tool, 'README', readme)
    monkeypatch.setattr(tool, 'RECORDS', tmp_path / 'records.json')
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(tool, 'stack_files', lambda: {'default': tmp_path / 'pins.txt'})
    outcomes = dict(a='', b='failure', c='error', d='skipped', e='failure')
    parts = [_junit(tmp_path / '1.xml', 90, **outcomes)]
    parts.append(_junit(tmp_path / '2.xml', 30, e='', f=''))  # e was run again
    tests = ['default', '--tests', *parts]
    command = [*tests, '--demo', str(tmp_path)]

    (tmp_path / 'demo.json').write_text(json.dumps(dict(fingerprint='x')))
    with pytest.raises(SystemExit):
        tool.main(command)
    assert 'has no outcome; run demo/run_demo.py' in capsys.readouterr().err

    outcome = {'coco/bbox_mAP': 0.8125, 'coco/segm_mAP': 0.5, 'seconds': 150}
    (tmp_path / 'demo.json').write_text(json.dumps(dict(outcome=outcome)))
    tool.main(command)
    record = json.loads((tmp_path / 'records.json').read_text())['default']
    assert record['tests'] == dict(passed=3, failed=2, skipped=1, minutes=2.0)
    assert record['demo'] == dict(box_ap=0.812, mask_ap=0.5, minutes=2.5)
    row = readme.read_text().splitlines()[-4]
    assert row.startswith('| [default](../pins.txt) | ')
    assert '| 3, 2, 1 | 0.812, 0.500 | ' in row
    assert f' {record["packages"]["torch"]} |' in row
    tool.main(['--check'])
    readme.write_text(readme.read_text().replace('3, 2, 1', '5, 0, 1'))
    with pytest.raises(SystemExit):
        tool.main(['--check'])
    assert 'out of date: README.md' in capsys.readouterr().out
    tool.main(tests)
    assert '| 3, 2, 1 | not run | ' in readme.read_text()
