# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import errno
from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner.checkpoint import CheckpointLoader

from mmrla.engine.errors import config_errors, one_line_errors
from mmrla.errors import UserError, one_line
from mmrla.models.wiring import WiringMismatchError


def fail_with(error):
    @one_line_errors
    def main():
        raise error

    return main


SHOWN = {
    'input': (UserError('a is\n b'), 2, 'a is b'),
    'later': (UserError('full', status=1), 1, 'full'),
    'wiring': (WiringMismatchError('made with v3'), 2, 'made with v3'),
    'missing file': (FileNotFoundError(2, 'No such file', 'a.jpg'), 1, "'a.jpg'"),
    'disk': (OSError(errno.ENOSPC, 'No space left on device'), 1, 'No space left'),
    'worker': (
        FileNotFoundError('Caught in a worker.\n  line\nNo such file: b.jpg'),
        1,
        'error: No such file: b.jpg',
    ),
    'image': (
        AssertionError('Caught in a worker.\n  line\nfailed to load image: b c.jpg'),
        1,
        'error: image b c.jpg cannot be read',
    ),
    'memory': (
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to'),
        1,
        'CUDA out of memory; use smaller batches',
    ),
    'peer': (
        RuntimeError('[pair.cc] Connection closed by peer [127.0.0.1]'),
        1,
        'another process of this job is gone',
    ),
}


@pytest.mark.parametrize('error, status, message', SHOWN.values(), ids=list(SHOWN))
def test_user_errors_are_one_line(error, status, message, capsys):
    with pytest.raises(SystemExit) as ended:
        fail_with(error)()
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    'error', [ValueError('x'), RuntimeError('x'), OSError(errno.EBADF, 'x')]
)
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        fail_with(error)()


def test_common_error_of_processes_is_shown_once(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('MMRLA_SHARED_FOLDER', str(tmp_path))
    for message in ('a', 'a', 'b', 'a'):
        with pytest.raises(SystemExit, match='2'):
            fail_with(UserError(message))()
    lines = capsys.readouterr().err.splitlines()
    assert [line[-1] for line in lines] == ['a', 'b']


def test_shared_folder_may_be_gone(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv('MMRLA_SHARED_FOLDER', str(tmp_path / 'gone'))
    with pytest.raises(SystemExit):
        fail_with(UserError('a'))()
    assert capsys.readouterr().err.endswith('error: a\n')


@pytest.mark.parametrize(
    'error, message',
    [
        (ValueError('depth=51'), 'a.py: depth=51'),
        (TypeError('unexpected'), 'a.py: TypeError: unexpected'),
        (KeyError('Net is not in the registry'), 'a.py: KeyError: Net is not in'),
    ],
)
def test_config_errors_name_the_config(error, message):
    with pytest.raises(UserError) as caught, config_errors('a.py'):
        raise error
    assert str(caught.value).startswith(message)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize('error', [RuntimeError('x'), WiringMismatchError('x')])
def test_other_errors_pass_through(error):
    with pytest.raises(type(error)), config_errors('a.py'):
        raise error


def test_one_line():
    assert one_line(KeyError('a b')) == 'a b'
    assert one_line('a\n  b ') == 'a b'


@pytest.mark.parametrize('name', ['torchvision://resnet50', 'https://a.org/x.pth'])
def test_failed_download_names_weights(name, monkeypatch, tmp_path, capsys):
    """The message has the URL and a remedy."""

    def refuse(*args, **kwargs):
        raise URLError('no route')

    monkeypatch.setattr('torch.hub.urlopen', refuse)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))

    @one_line_errors
    def main():
        CheckpointLoader.load_checkpoint(name, map_location='cpu')

    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = [x for x in capsys.readouterr().err.splitlines() if 'error: ' in x]
    assert ended.value.code == 1
    assert name in line
    assert 'https://' in line
    assert 'load_from=FILE' in line


TREE = dict(
    optim_wrapper=dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), constructor='Own'
    ),
    custom_hooks=[dict(type='CheckInvalidLossHook'), dict(type='EMAHook')],
)


@pytest.mark.parametrize(
    'built, key',
    [
        (dict(type='SGD', lr=0.1, params=[]), "optim_wrapper.optimizer.type='SGD'"),
        (dict(type='OptimWrapper'), "optim_wrapper.type='OptimWrapper'"),
        (dict(type='EMAHook'), "custom_hooks.1.type='EMAHook'"),
        (dict(type='Own'), "optim_wrapper.constructor='Own'"),
        (dict(type='Adam'), 'late'),
    ],
)
def test_error_names_key_in_config(built, key):
    registry = Registry('anything')
    config = Config(TREE)
    with pytest.raises(UserError) as caught, config_errors(config, 'late'):
        registry.build(built)
    assert f'{key}: KeyError: {built["type"]} is not in' in str(caught.value)


DCN = dict(dcn=dict(type='DCN'), stage_with_dcn=(True,) * 4)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(style='no'), r"style in \['pytorch', 'caffe'\] does not .*: style='no'"),
        (dict(strides=(1, 2)), r'len\(strides\) == .*num_stages=4, strides=\(1, 2\)'),
        (dict(depth=18, **DCN), r'Not implemented yet. \(dcn is None does not'),
        (dict(norm_cfg=dict(type='BNN')), "Cannot find 'BNN' in registry"),
        (
            dict(rla_chanels=1),
            "argument 'rla_chanels' .is 'rla_channels' meant.*_delete",
        ),
        (dict(dcm=1), r"argument 'dcm' .is 'dcn' meant"),
        (dict(type='RLAHRNet'), 'RLAHRNet is not in .*exists over .*ResNeXt, ResNet,'),
        (dict(type='ResNetV1e'), "ResNetV1e is not in .*is 'ResNetV1"),
        (dict(type='Nothing'), r'Nothing is not in .*DEBUG=1'),
    ],
)
def test_hints_for_errors_of_libraries(no_init, cfg, message):
    pytest.importorskip('mmdet')
    from mmdet.registry import MODELS

    cfg = dict(dict(type='RLAResNet', depth=50, base_channels=8), **cfg)
    with pytest.raises(UserError, match=message), config_errors('a.py'):
        MODELS.build(cfg)


def test_missing_package_is_a_config_error():
    with pytest.raises(UserError, match='x: RuntimeError: lap is not installed'):
        with config_errors(Config(TREE), 'x'):
            raise RuntimeError('lap is not installed')
    with pytest.raises(RuntimeError, match='a bug'), config_errors(Config(TREE), 'x'):
        raise RuntimeError('a bug')
