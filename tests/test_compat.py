# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The check of the installed versions at import."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mmrla import compat

REPO = Path(__file__).resolve().parents[1]
UPSTREAM = {
    'torch': '2.1.2+cu121',
    'numpy': '1.26.4',
    'mmengine': '0.10.7',
    'mmcv': '2.1.0',
    'mmdet': '3.3.0',
    'mmpretrain': '1.2.0',
}
ONEDL = {
    'torch': '2.9.0',
    'numpy': '2.4.0',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1',
    'onedl-mmpretrain': '1.3.6',
}


@pytest.fixture
def stack(monkeypatch):
    """A function that lets the check see these distributions only."""

    def pretend(installed, sources=None, pkg_resources=True):
        def version(name):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)
            return installed[name]

        modules = {'packaging', *(['pkg_resources'] if pkg_resources else [])}
        specs = dict.fromkeys(modules, 'spec')
        monkeypatch.setattr(compat.metadata, 'version', version)
        monkeypatch.setattr(compat.importlib.util, 'find_spec', specs.get)
        monkeypatch.setattr(compat, '_source_version', (sources or {}).get)

    return pretend


def conflict():
    """The message of the refusal."""
    with pytest.raises(compat.VersionConflictError) as error:
        compat.check_versions()
    message = str(error.value)
    assert '\n' not in message
    return message


@pytest.mark.parametrize(
    'installed',
    [
        UPSTREAM,
        ONEDL,
        {k: v for k, v in UPSTREAM.items() if k not in ('mmdet', 'mmpretrain')},
        {**UPSTREAM, 'mmcv': '2.0.0', 'mmpretrain': '1.0.0', 'mmdet': '3.1.0'},
        {**{k: v for k, v in UPSTREAM.items() if k != 'mmcv'}, 'mmcv-lite': '2.1.0'},
        {**UPSTREAM, 'torch': '2.13.0', 'numpy': '2.4.1'},
    ],
    ids=['upstream', 'onedl', 'bare', 'oldest', 'lite', 'new torch'],
)
def test_accepts(stack, installed):
    stack(installed)
    compat.check_versions()


@pytest.mark.parametrize(
    ('change', 'parts'),
    [
        (
            {'mmcv': '2.2.0'},
            [
                'mmcv 2.2.0 is installed',
                'mmcv>=2.0.0,<2.2 is needed',
                "pip install --no-build-isolation 'mmcv>=2.0.0,<2.2'",
            ],
        ),
        (
            {'mmengine': '0.9.1'},
            ['mmengine 0.9.1 is installed', "pip install 'mmengine>=0.10.3,<1'"],
        ),
        ({'mmdet': '2.28.2'}, ['mmdet 2.28.2', "pip install 'mmdet>=3.1,<4'"]),
        ({'mmpretrain': '1.0.0rc7'}, ['mmpretrain 1.0.0rc7', 'mmpretrain>=1.0,<2']),
        ({'torch': '1.13.1+cpu'}, ['torch 1.13.1+cpu', "pip install 'torch>=2.1'"]),
        (
            {'mmcv': None},
            ['mmcv is not installed', 'mmcv>=2.0.0,<2.2 is needed', 'pip install'],
        ),
        (
            {'mmcv': None, 'mmcv-full': '1.7.2'},
            ['mmcv-full 1.7.2 is installed', 'pip uninstall -y mmcv-full && pip'],
        ),
        (
            {'onedl-mmcv': '2.3.6'},
            ['mmcv 2.1.0 and onedl-mmcv 2.3.6', 'pip uninstall -y mmcv onedl-mmcv'],
        ),
        (
            {'mmcv': None, 'onedl-mmcv': '2.3.6'},
            ['mmdet 3.3.0 is installed and refuses onedl-mmcv 2.3.6'],
        ),
        ({'numpy': '2.0.1'}, ['numpy 2.0.1', "pip install 'numpy<2'"]),
    ],
)
def test_refuses(stack, change, parts):
    installed = {**UPSTREAM, **change}
    stack({k: v for k, v in installed.items() if v})
    message = conflict()
    for part in parts:
        assert part in message


def test_names_the_family_in_use(stack):
    stack({**ONEDL, 'onedl-mmdetection': '3.3.9'})
    assert "pip install 'onedl-mmdetection>=3.4,<4'" in conflict()
    stack({k: v for k, v in ONEDL.items() if k != 'onedl-mmcv'})
    assert 'onedl-mmcv>=2.3.0,<3 is needed' in conflict()


@pytest.mark.parametrize(
    ('installed', 'family'),
    [
        (UPSTREAM, 'OpenMMLab'),
        (ONEDL, 'OneDL'),
        ({**UPSTREAM, 'onedl-mmcv': '2.3.6'}, 'OneDL and OpenMMLab'),
        ({'torch': '2.1.2'}, 'no'),
    ],
)
def test_tells_the_family(stack, installed, family):
    stack(installed)
    assert compat.family() == family
    text = compat.describe()
    assert text.startswith(f'{family} packages: torch {installed["torch"]}')
    for name, version in installed.items():
        assert f'{name} {version}' in text


def test_refusals_tell_the_family(stack):
    stack({**ONEDL, 'onedl-mmcv': '2.2.0'})
    assert '(OneDL packages found): onedl-mmcv 2.2.0' in conflict()
    stack({**UPSTREAM, 'mmcv': '2.2.0'})
    assert '(OpenMMLab packages found): mmcv 2.2.0' in conflict()


def test_names_all_conflicts(stack):
    stack({**UPSTREAM, 'mmcv': '1.7.2', 'mmdet': '2.28.2'})
    message = conflict()
    assert 'mmcv 1.7.2' in message
    assert 'mmdet 2.28.2' in message


def test_only_upstream_needs_pkg_resources(stack):
    stack({**UPSTREAM, 'setuptools': '82.0.0'}, pkg_resources=False)
    assert 'setuptools 82.0.0 is installed' in conflict()
    stack(ONEDL, pkg_resources=False)
    compat.check_versions()


def test_package_on_path_counts(stack):
    without = {k: v for k, v in UPSTREAM.items() if k not in ('mmcv', 'mmdet')}
    stack(without, sources={'mmcv': '2.1.0', 'mmdet': '3.3.0'})
    compat.check_versions()
    stack(without, sources={'mmcv': '1.7.0'})
    assert 'mmcv 1.7.0 is installed' in conflict()


def test_version_of_a_source_folder(tmp_path, monkeypatch):
    (tmp_path / 'some_mm').mkdir()
    (tmp_path / 'some_mm' / '__init__.py').write_text('raise RuntimeError')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert compat._source_version('some_mm') is None
    (tmp_path / 'some_mm' / 'version.py').write_text("__version__ = '3.1.0'\n")
    assert compat._source_version('some_mm') == '3.1.0'
    assert compat._source_version('no_such_mm') is None


def run(code, *paths):
    """Run Python code in a new process."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, [*paths, REPO]))}
    return subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=env
    )


def test_import_refuses(tmp_path):
    dist = 'onedl-mmcv' if compat.family() == 'OneDL' else 'mmcv'
    info = tmp_path / f'{dist.replace("-", "_")}-2.2.0.dist-info'
    info.mkdir()
    text = f'Metadata-Version: 2.1\nName: {dist}\nVersion: 2.2.0'
    (info / 'METADATA').write_text(text)
    done = run('import mmrla', tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('mmrla.compat.VersionConflictError: mmrla cannot be')
    needed = dist + compat.RANGES['mmcv'][dist]
    assert f'{dist} 2.2.0 is installed, {needed} is needed' in last
    # MMEngine, too, must pass it on, where it hides ImportErrors.
    build = "from mmengine.registry import MODELS; MODELS.get('mmrla.RLAResNet')"
    done = run(build, tmp_path)
    assert 'VersionConflictError' in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    'missing, there', [('mmdet', 'mmpretrain'), ('mmpretrain', 'mmdet')]
)
def test_mmdet_or_mmpretrain_alone(missing, there):
    """The name builds the network of the installed library."""
    done = run(f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda n, *a: None if n == {missing!r} else find_spec(n, *a)
sys.modules[{missing!r}] = None  # an import would raise
import mmrla
from mmengine.registry import MODELS
from mmrla.models import RLAResNet
for name in ('RLAResNet', 'mmrla.RLAResNet'):
    model = MODELS.build(dict(type=name, depth=18))
    assert type(model) is RLAResNet
    assert any(c.__module__.startswith({there!r} + '.') for c in type(model).__mro__)
""")
    assert done.returncode == 0, done.stderr


def test_all_scopes_find_models_and_loading_stays_unchanged():
    """Only entry points decide what torch.load may unpickle, file by file."""
    done = run("""
import os
import torch
import mmdet.models, mmpretrain.models
from mmdet.registry import MODELS as DET
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.registry import MODELS as PRE
def loading():
    return (
        torch.load,
        getattr(torch.serialization, 'get_safe_globals', list)(),
        dict(CheckpointLoader._schemes),
        {k: v for k, v in os.environ.items() if 'TORCH' in k},
    )
before = loading()
for registry in (MODELS, DET, PRE):
    assert registry.build(dict(type='mmrla.RLAResNet', depth=18)) is not None
    assert registry.build(dict(type='RLAResNet', depth=18)) is not None
import mmrla, mmrla.models.fused, mmrla.zoo
from mmrla import checkpoints, engine
from mmrla.checkpoints import convert
from mmrla.engine import checkpoint_io, resume, weights
assert loading() == before, (before, loading())
""")
    assert done.returncode == 0, done.stderr
