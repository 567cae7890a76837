# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import os
import sys
from pathlib import Path

import pytest
import torch

from mmrla.models import RLAResNet

from .conftest import TOOLS, call, error_line, run, same_weights, weights


def epochs(work_dir):
    return sorted(path.name for path in Path(work_dir).glob('*.pth'))


def newest_log(work_dir):
    return sorted(Path(work_dir).glob('*/*.log'))[-1].read_text()


def test_a_detector_is_trained_and_evaluated(trained):
    log = newest_log(trained)
    assert 'coco/bbox_mAP' in log
    assert epochs(trained) == ['epoch_2.pth']  # max_keep_ckpts=1
    assert (trained / 'last_checkpoint').read_text() == str(trained / 'epoch_2.pth')
    assert 'SafeCheckpointHook' in (trained / 'detector.py').read_text()
    assert all(w.isfinite().all() for w in weights(trained / 'epoch_2.pth').values())


def test_a_classifier_is_trained_as_a_program(classifier_config, tmp_path):
    """From a folder that is not the repository's, without any option's default."""
    done = run(
        sys.executable,
        TOOLS / 'train.py',
        classifier_config,
        '--amp',
        '--auto-scale-lr',
        '--cfg-options',
        'optim_wraper.optimizer.lr=1',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    work_dir = tmp_path / 'work_dirs' / 'classifier'
    assert epochs(work_dir) == ['epoch_1.pth']
    log = newest_log(work_dir)
    assert 'accuracy/top1' in log
    # 2 of 256 images: 0.01 / 128.
    assert 'Scaling the original LR by 0.0078125' in log
    assert "no 'optim_wraper', is 'optim_wrapper' meant?" in done.stdout
    assert '--amp has no effect without a GPU' in done.stdout
    assert sorted(os.listdir(tmp_path)) == ['work_dirs']


def test_resuming_ends_with_the_weights_of_an_undisturbed_run(
    trained, detector_config, tmp_path
):
    one_epoch = '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9'
    call('train', detector_config, '--work-dir', tmp_path, *one_epoch)
    assert epochs(tmp_path) == ['epoch_1.pth']
    # A newer file that was cut off, which last_checkpoint names.
    whole = (tmp_path / 'epoch_1.pth').read_bytes()
    (tmp_path / 'epoch_2.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    (tmp_path / '.epoch_2.pth.tmp').write_bytes(whole[:1000])

    call('train', detector_config, '--work-dir', tmp_path, '--resume')

    assert 'resumed epoch: 1, iter: 4' in newest_log(tmp_path)
    assert epochs(tmp_path) == ['epoch_2.pth']
    assert same_weights(tmp_path / 'epoch_2.pth', trained / 'epoch_2.pth')
    assert not list(tmp_path.glob('.*.tmp'))
    # Torn as it is, the file was not overwritten.
    assert len(list(tmp_path.glob('earlier/*/epoch_2.pth'))) == 1


def test_a_new_run_keeps_the_checkpoints_of_the_one_before(classifier_config, tmp_path):
    one_epoch = '--work-dir', tmp_path
    call('train', classifier_config, *one_epoch)
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    call('train', classifier_config, *one_epoch, '--cfg-options', 'randomness.seed=1')
    assert (tmp_path / 'epoch_1.pth').read_bytes() != before
    (kept,) = tmp_path.glob('earlier/*/epoch_1.pth')
    assert kept.read_bytes() == before
    assert len(list(tmp_path.glob('2*/'))) == 2


def test_resume_auto_without_a_checkpoint_starts_with_load_from(
    trained, detector_config, tmp_path
):
    """Upstream forgets load_from then and starts from noise."""
    source = trained / 'epoch_2.pth'
    options = f'load_from={source}', 'optim_wrapper.optimizer.lr=0.0'
    args = '--work-dir', tmp_path, '--resume', 'auto', '--cfg-options', *options
    call(
        'train',
        detector_config,
        *args,
        'train_cfg.max_epochs=1',
        'val_cfg=None',
        'val_dataloader=None',
        'val_evaluator=None',
    )
    name = 'backbone.layer1.0.conv1.weight'
    ours, theirs = weights(tmp_path / 'epoch_1.pth'), weights(source)
    assert ours[name].equal(theirs[name])


def test_options_without_a_value_are_refused(detector_config, capsys):
    with pytest.raises(SystemExit, match='2'):
        call('train', detector_config, '--cfg-options', 'model.backbone.depth')
    assert "'model.backbone.depth' is not KEY=VALUE" in capsys.readouterr().err


def test_weights_of_another_backbone_are_refused(
    trained, detector_config, tmp_path, capsys
):
    """rla_channels differs: as load_from, and as pretrained weights."""
    other = 'model.backbone.rla_channels=6'
    checkpoint = trained / 'epoch_2.pth'
    ways = {
        'load_from': [f'load_from={checkpoint}'],
        'init_cfg': [
            'model.backbone.init_cfg.type=Pretrained',
            'model.backbone.init_cfg.prefix=backbone',
            f'model.backbone.init_cfg.checkpoint={checkpoint}',
        ],
    }
    for options in ways.values():
        args = detector_config, '--work-dir', tmp_path, '--cfg-options', other, *options
        status, line = error_line(capsys, 'train', *args)
        assert status == 2
        assert 'rla.0.read.0.weight is (8, 4, 1, 1)' in line
        assert '(8, 6, 1, 1)' in line
    assert not list(tmp_path.glob('*.pth'))


def test_a_plain_resnet_starts_an_rla_detector(detector_config, tmp_path):
    plain = RLAResNet(50, rla_channels=0, base_channels=8)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    call(
        'train',
        detector_config,
        *('--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1'),
        'model.backbone.init_cfg.type=Pretrained',
        f'model.backbone.init_cfg.checkpoint={tmp_path / "plain.pth"}',
        'optim_wrapper.optimizer.lr=0.0',
    )
    assert '265 of 265 tensors are the plain network' in newest_log(tmp_path / 'run')
    own = weights(tmp_path / 'run/epoch_1.pth')
    for name, value in plain.named_parameters():
        assert own[f'backbone.{name}'].equal(value)
    assert not own['backbone.rla.1.read.0.weight'].any()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(prefix=None), "prefix='backbone.' would fit"),
        (dict(depth=101), 'convs are without weights'),
        (dict(attention='ECA'), "unexpected keyword argument 'attention'"),
    ],
)
def test_a_wrong_start_is_one_line(detector_config, tmp_path, capsys, change, message):
    weights = RLAResNet(50, rla_channels=0, base_channels=8).state_dict()
    named = {f'backbone.{name}': value for name, value in weights.items()}
    torch.save(named, tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', prefix='backbone.')
    init_cfg.update(checkpoint=tmp_path / 'x.pth')
    if 'prefix' in change:
        change = {}
        del init_cfg['prefix']
    options = [f'model.backbone.init_cfg.{k}={v}' for k, v in init_cfg.items()]
    options += [f'model.backbone.{k}={v}' for k, v in change.items()]
    args = '--work-dir', tmp_path / 'run', '--cfg-options', *options
    status, line = error_line(capsys, 'train', detector_config, *args)
    assert status == 2
    assert message in line
    if 'attention' in change:
        assert '_delete_=True' in line
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_debugging_brings_the_traceback_back(monkeypatch, tmp_path):
    from mmrla.engine.errors import UserError

    monkeypatch.setenv('MMRLA_DEBUG', '1')
    with pytest.raises(UserError, match='does not exist'):
        call('train', tmp_path / 'none.py')
