# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Contents of the sdist and wheel, and use of plain and editable installs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[1]
TOP = (
    'configs',
    'demo',
    'mmrla',
    'requirements',
    'tools',
    'LICENSE',
    'MANIFEST.in',
    'README.md',
    'model-index.yml',
    'pyproject.toml',
    'requirements.txt',
    'setup.py',
)
MIM = ('configs', 'tools', 'demo', 'model-index.yml')


def run(*command, **kwargs):
    """Run a command to its end; its output is shown if it fails."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**env, **kwargs.pop('env', {})},
        **kwargs,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_source(target):
    """Copy what a build reads.

    Returns:
        The folder, and relative path to content of all that ``.mim`` must hold.
    """
    ignored = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
    for name in TOP:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, target / name, ignore=ignored)
        else:
            target.mkdir(exist_ok=True)
            shutil.copy2(REPO / name, target / name)
    content = read_files(target, [p for n in MIM for p in tree(target / n)])
    # What must not get into a wheel.
    (target / 'configs' / '.hidden').mkdir()
    (target / 'configs' / '.hidden' / 'secret.py').touch()
    (target / 'tools' / '__pycache__').mkdir()
    (target / 'tools' / '__pycache__' / 'train.pyc').touch()
    return target, content


def tree(path):
    """A path and all below it."""
    return [path, *path.rglob('*')]


def read_files(root, paths):
    """Path relative to a folder -> content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and '__pycache__' not in path.parts
    }


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of ``python -m build`` (sdist, then wheel), and what it must hold."""
    tmp_path = tmp_path_factory.mktemp('build')
    source, content = copy_source(tmp_path / 'source')
    out = tmp_path / 'dist'
    run(sys.executable, '-m', 'build', '--no-isolation', '-o', out, source)
    assert len(list(out.glob('mmrla-*.tar.gz'))) == 1
    (path,) = out.glob('mmrla-*.whl')
    modules = {p.relative_to(source).as_posix() for p in source.glob('mmrla/**/*.py')}
    return path, content, modules


def test_wheel_of_build(wheel):
    path, mim_content, modules = wheel
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
        modes = {i.filename: i.external_attr >> 16 for i in archive.infolist()}
    prefix = 'mmrla/.mim/'
    mim = {k[len(prefix) :]: v for k, v in content.items() if k.startswith(prefix)}
    assert mim == mim_content
    assert modes[f'{prefix}tools/dist_train.sh'] & 0o111
    names = {name for name in content if not name.startswith(prefix)}
    assert {name for name in names if name.endswith('.py')} == modules
    assert {name.split('/')[0].split('-')[0] for name in names} == {'mmrla'}

    (name,) = (n for n in content if n.endswith('.dist-info/METADATA'))
    metadata = message_from_bytes(content[name])
    assert metadata['Requires-Python'] == '>=3.9'
    assert metadata['License'] == 'Apache-2.0' or 'License-Expression' in metadata
    requires = metadata.get_all('Requires-Dist', [])
    plain = {line for line in requires if 'extra ==' not in line}
    # mmcv and mmengine would be installed over a fork, mmdet and mmpretrain are
    # optional: the extras have them.
    names = {Requirement(line).name for line in plain}
    assert names == {'numpy', 'packaging', 'torch'}
    extras = set(metadata.get_all('Provides-Extra', []))
    assert extras >= {
        'all',
        'demo',
        'look',
        'mim',
        'mmdet',
        'mmpretrain',
        'onedl',
        'tests',
    }


@pytest.mark.slow
def test_pip_install(tmp_path):
    source, content = copy_source(tmp_path / 'source')
    # Left by an older build: must not be installed.
    stale = source / 'build' / 'lib' / 'mmrla' / '.mim' / 'configs' / 'old.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    target = tmp_path / 'target'
    pip_install(sys.executable, '--target', target, source)
    mim = target / 'mmrla' / '.mim'
    assert read_files(mim, tree(mim)) == content
    assert not any(path.is_symlink() for path in mim.rglob('*'))
    check_use(sys.executable, target / 'mmrla', env={'PYTHONPATH': str(target)})


@pytest.mark.slow
def test_editable_install(tmp_path):
    source, _ = copy_source(tmp_path / 'a source')
    # Copies of an older install are replaced by links.
    (source / 'mmrla' / '.mim' / 'configs').mkdir(parents=True)
    (source / 'mmrla' / '.mim' / 'configs' / 'old.py').touch()
    python = make_venv(tmp_path / 'venv')
    pip_install(python, '-e', source)
    mim = source / 'mmrla' / '.mim'
    for name in MIM:
        assert os.readlink(mim / name) == os.path.join('..', '..', name)
    # A config that is edited in the repository is the one that is used.
    (source / 'configs' / 'new').mkdir()
    (source / 'configs' / 'new' / 'new.py').write_text('answer = 42\n')
    check_use(python, source / 'mmrla', more='assert get("new/new.py").answer == 42')


INTERFACES = """
import subprocess, sys
import numpy as np
import mmpretrain
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
import mmrla
from mmrla import zoo
assert '.mim' in str(zoo.root()), zoo.root()
image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)

zoo.register_models()
name = 'rla-mobilenet-v2_2xb48_in1k'
assert name in mmpretrain.list_models('rla-*')
assert mmpretrain.get_model(name).backbone.rla_channels == 32
inferencer = mmpretrain.ImageClassificationInferencer(name, device='cpu')
assert inferencer(image)[0]['pred_scores'].shape == (1000,)

path = zoo.config_path('retinanet_rla-r50_fpn_4xb2-1x_coco')
result = inference_detector(init_detector(path, device='cpu'), image)
assert result.pred_instances.bboxes.shape[1] == 4
result = DetInferencer(path, device='cpu', palette='coco')(image)
assert set(result['predictions'][0]) >= {'labels', 'scores', 'bboxes'}

with open('user.py', 'w') as f:
    f.write('_base_ = "mmrla::retinanet/retinanet_rla-r50_fpn_4xb2-1x_coco.py"')
assert Config.fromfile('user.py').model.backbone.type == 'RLAResNet'
tool = zoo.root() / 'tools' / 'analysis_tools' / 'get_flops.py'
out = subprocess.check_output([sys.executable, tool, name + '.py'], text=True)
assert 'parameters: 3,630,440' in out, out
"""


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """Python of an environment with the installed wheel."""
    python = make_venv(tmp_path_factory.mktemp('wheel') / 'venv')
    pip_install(python, wheel[0])
    return python


@pytest.mark.slow
def test_interfaces_outside_the_clone(installed, tmp_path):
    """Upstream's interfaces, from an installed wheel."""
    run(installed, '-c', INTERFACES, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_console_command(installed, released, detector_config, tiny_coco, tmp_path):
    """``mmrla`` trains, detects and converts, from an installed wheel."""
    mmrla = installed.parent / 'mmrla'
    run(mmrla, 'train', detector_config, '--work-dir', 'run', cwd=tmp_path)
    found = run(
        *(mmrla, 'detect', 'run/epoch_2.pth', '--device', 'cpu', '--score-thr', 0),
        *(tiny_coco / 'val', '--out-dir', 'found'),
        cwd=tmp_path,
    )
    assert len(re.findall(r'\.png: (red|blue)', found)) == 5, found
    assert len(list((tmp_path / 'found' / 'vis').iterdir())) == 5
    released.save('dsrla_mobilenetv2_k32', tmp_path / 'x.pth.tar', constant=True)
    run(mmrla, 'convert', 'x.pth.tar', 'y.pth', cwd=tmp_path)
    assert (tmp_path / 'y.pth').is_file()


def pip_install(python, *args):
    """Install without index, dependencies and isolation."""
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '-q']
    run(*pip, '--no-deps', '--no-index', '--no-build-isolation', *args)


def make_venv(path):
    """An environment that sees the packages of this one, but not its mmrla."""
    venv.create(path, symlinks=True)
    python = path / 'bin' / 'python'
    code = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    site = Path(run(python, '-c', code).strip())
    paths = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib')}
    (site / 'base.pth').write_text(''.join(f'{p}\n' for p in sorted(paths)))
    return python


def check_use(python, package, more='', **kwargs):
    """``mmrla::...`` is found by MMEngine, in the package that was installed."""
    code = f"""
import os
import mmrla
from mmengine.config import Config
from mmengine.hub import get_config
assert os.path.dirname(mmrla.__file__) == {str(package)!r}, mmrla.__file__
def get(name):
    with open('user.py', 'w') as f:
        f.write(f'_base_ = "mmrla::{{name}}"')
    return Config.fromfile('user.py')
assert get('_base_/rla.py').custom_imports.imports == ['mmrla']
# One that stands in a metafile, and that itself inherits from mmpretrain.
name = 'rla_resnet/rla-resnet50_4xb64_in1k.py'
for config in (get(name), get_config('mmrla::' + name)):
    assert config.model.backbone.type == 'RLAResNet'
{more}
"""
    run(python, '-c', code, cwd=package.parents[1], **kwargs)
