# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
import torch

from mmrla.models import RLAResNet

from ..conftest import NEW_PARTS
from .conftest import (
    REPO,
    TOOLS,
    call,
    environment,
    error_line,
    run,
    same_weights,
    weights,
)


def epochs(work_dir):
    return sorted(path.name for path in Path(work_dir).glob('*.pth'))


def newest_log(work_dir):
    return sorted(Path(work_dir).glob('*/*.log'))[-1].read_text()


def test_detector_is_trained_and_evaluated(trained):
    log = newest_log(trained)
    assert 'coco/bbox_mAP' in log
    assert epochs(trained) == ['epoch_2.pth']  # max_keep_ckpts=1
    assert (trained / 'last_checkpoint').read_text() == str(trained / 'epoch_2.pth')
    assert 'SafeCheckpointHook' in (trained / 'detector.py').read_text()
    assert all(w.isfinite().all() for w in weights(trained / 'epoch_2.pth').values())


OURS = tuple(f'{REPO}/{folder}/' for folder in ('mmrla', 'tools', 'configs'))
#: A warning, and the file that gives it.
WARNING = re.compile(r'^(\S.*?):\d+: (?:\w+\.)*\w*Warning: ', re.MULTILINE)


def test_classifier_trained_as_program(classifier_config, tmp_path):
    """Run outside the repository, with ineffective options and all warnings shown."""
    done = run(
        sys.executable,
        *('-W', 'always'),
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
    files = WARNING.findall(done.stdout + done.stderr)
    assert not [file for file in files if file.startswith(OURS)]


def test_resumed_run_equals_undisturbed_run(
    trained, detector_config, tmp_path, recwarn
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
    # The torn file was not overwritten.
    assert len(list(tmp_path.glob('earlier/*/epoch_2.pth'))) == 1
    assert not [w for w in recwarn if w.filename.startswith(OURS)]


def test_new_run_keeps_earlier_checkpoints(classifier_config, tmp_path):
    one_epoch = '--work-dir', tmp_path
    call('train', classifier_config, *one_epoch)
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    call('train', classifier_config, *one_epoch, '--cfg-options', 'randomness.seed=1')
    assert (tmp_path / 'epoch_1.pth').read_bytes() != before
    (kept,) = tmp_path.glob('earlier/*/epoch_1.pth')
    assert kept.read_bytes() == before


def test_resume_auto_without_checkpoint_uses_load_from(
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


def test_option_without_value(detector_config, capsys):
    with pytest.raises(SystemExit, match='2'):
        call('train', detector_config, '--cfg-options', 'model.backbone.depth')
    assert "'model.backbone.depth' is not KEY=VALUE" in capsys.readouterr().err


def test_weights_of_other_backbone_are_refused(
    trained, detector_config, tmp_path, capsys
):
    """With other rla_channels, from load_from and from init_cfg."""
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


def test_rla_detector_starts_from_plain_resnet(detector_config, tmp_path):
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
def test_wrong_init_cfg_gives_one_line(
    detector_config, tmp_path, capsys, change, message
):
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


def test_debug_variable_shows_traceback(monkeypatch, tmp_path):
    from mmrla.engine.errors import UserError

    monkeypatch.setenv('MMRLA_DEBUG', '1')
    with pytest.raises(UserError, match='does not exist'):
        call('train', tmp_path / 'none.py')


#: A model that reads a supervised detector's weights as those of its two parts.
SEMI = """
_base_ = {base!r}
detector = _base_.model
model = dict(
    _delete_=True,
    type='SoftTeacher',
    detector=detector,
    data_preprocessor=dict(
        type='MultiBranchDataPreprocessor',
        data_preprocessor=detector.data_preprocessor),
    semi_train_cfg=dict(
        freeze_teacher=True, sup_weight=1.0, unsup_weight=4.0,
        pseudo_label_initial_score_thr=0.5, rpn_pseudo_thr=0.9, cls_pseudo_thr=0.9,
        reg_pseudo_thr=0.02, jitter_times=2, jitter_scale=0.06,
        min_pseudo_bbox_wh=(1e-2, 1e-2)),
    semi_test_cfg=dict(predict_on='teacher'))
fields = ['sup', 'unsup_teacher', 'unsup_student']
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
resize = dict(type='Resize', scale=(64, 64), keep_ratio=True)
view = [resize, dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor',
    'homography_matrix'))]
dataset = _base_.train_dataloader.dataset
labeled = dict(dataset, pipeline=[
    *load, resize,
    dict(type='MultiBranch', branch_field=fields, sup=dict(type='PackDetInputs'))])
unlabeled = dict(dataset, pipeline=[
    load[0], dict(type='LoadEmptyAnnotations'),
    dict(type='MultiBranch', branch_field=fields, unsup_teacher=view,
         unsup_student=view)])
train_dataloader = dict(
    _delete_=True, batch_size=4, num_workers=0, persistent_workers=False,
    sampler=dict(type='GroupMultiSourceSampler', batch_size=4, source_ratio=[1, 3]),
    dataset=dict(type='ConcatDataset', datasets=[labeled, unlabeled]))
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=2, val_interval=9)
val_cfg = dict(type='TeacherStudentValLoop')
custom_hooks = [dict(type='MeanTeacherHook')]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
"""


def test_soft_teacher_from_supervised_detector(
    trained, detector_config, tmp_path, capsys
):
    """It renames weights as it loads them, in training and in testing."""
    config = tmp_path / 'semi.py'
    config.write_text(SEMI.format(base=str(detector_config)))
    source = trained / 'epoch_2.pth'
    options = '--cfg-options', f'load_from={source}', 'optim_wrapper.optimizer.lr=0.0'
    call('train', config, '--work-dir', tmp_path / 'run', *options)
    assert 'never trained' not in newest_log(tmp_path / 'run')
    ours, theirs = weights(tmp_path / 'run/iter_2.pth'), weights(source)
    for name, value in theirs.items():
        if name.endswith('weight'):
            # An average of equals, up to rounding.
            torch.testing.assert_close(ours[f'teacher.{name}'], value)
    call('test', config, source, '--work-dir', tmp_path / 'test')

    other = '--cfg-options', 'model.detector.backbone.depth=101'
    args = config, '--work-dir', tmp_path / 'no'
    status, line = error_line(capsys, 'train', *args, *other, f'load_from={source}')
    assert (status, 'another network' in line) == (2, True)
    assert not (tmp_path / 'no').exists()


def test_flexible_runner(trained, detector_config, tmp_path):
    options = [
        'runner_type=FlexibleRunner',
        'strategy.type=SingleDeviceStrategy',
        'train_cfg.max_epochs=1',
        f'load_from={trained / "epoch_2.pth"}',
    ]
    args = '--work-dir', tmp_path / 'run', '--cfg-options', *options
    call('train', detector_config, *args)
    log = newest_log(tmp_path / 'run')
    assert 'coco/bbox_mAP' in log
    assert 'never trained' not in log
    assert epochs(tmp_path / 'run') == ['epoch_1.pth']


def test_layer_decay(detector_config, tmp_path):
    options = (
        'optim_wrapper.constructor=mmrla.LayerDecayConstructor',
        'optim_wrapper.paramwise_cfg.layer_decay_rate=0.5',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=9',
    )
    args = '--work-dir', tmp_path, '--cfg-options', *options
    call('train', detector_config, *args)
    checkpoint = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    groups = checkpoint['optimizer']['param_groups']
    rates = sorted({group['lr_scale'] for group in groups if 'lr_scale' in group})
    # Stem and 16 blocks; heads have the whole rate.
    assert rates == [0.5**i for i in range(17, 0, -1)]


def test_untrained_frozen_stage_is_reported(detector_config, tmp_path):
    options = 'model.backbone.frozen_stages=1', 'train_cfg.max_epochs=1'
    args = '--work-dir', tmp_path, '--cfg-options', *options
    call('train', detector_config, *args, 'train_cfg.val_interval=9')
    (line,) = [x for x in newest_log(tmp_path).splitlines() if 'never trained' in x]
    assert 'backbone.conv1, backbone.layer1 are frozen' in line
    assert 'frozen_stages=-1' in line


def test_bug_keeps_traceback(detector_config, tmp_path, monkeypatch):
    """In an optimizer, and in a hook."""
    from mmengine.hooks import IterTimerHook
    from torch.optim import SGD

    def bug(*args, **kwargs):
        raise ZeroDivisionError

    for owner, name in ((SGD, '__init__'), (IterTimerHook, 'before_train')):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, bug)
            with pytest.raises(ZeroDivisionError):
                call('train', detector_config, '--work-dir', tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_interruption_gives_one_line(tool, trained, detector_config, tmp_path):
    """Ctrl-C during the run."""
    args = [sys.executable, '-u', TOOLS / f'{tool}.py', detector_config]
    if tool == 'test':
        args.append(trained / 'epoch_2.pth')
    args += ['--work-dir', tmp_path, '--cfg-options', 'train_cfg.max_epochs=999']
    started = 'Epoch(train)' if tool == 'train' else 'Load checkpoint'
    with subprocess.Popen(
        [str(arg) for arg in args],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What runs the tests may ignore it, as a shell's background jobs do.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if started in line:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(60) == 130
    assert 'Traceback' not in errors
    assert errors.strip().splitlines()[-1] == f'{tool}.py: interrupted'


#: Networks of mmdet's own, a part of each new beside a plain ResNet's weights.
UPSTREAM: Dict[str, Dict[str, Any]] = {
    **NEW_PARTS,
    'caffe': dict(style='caffe', norm_cfg=dict(type='BN', requires_grad=False)),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', UPSTREAM)
def test_upstream_networks_start_without_warnings(name, detector_config, tmp_path):
    plain = RLAResNet(50, rla_channels=0, base_channels=8, stem_channels=8)
    weights = dict(plain.state_dict(), **{'fc.weight': torch.zeros(2, 256)})
    torch.save(weights, tmp_path / 'plain.pth')
    backbone = dict(
        type='ResNet',
        depth=50,
        base_channels=8,
        stem_channels=8,
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth')),
    )
    backbone.update(UPSTREAM[name], _delete_=True)
    config = tmp_path / 'upstream.py'
    config.write_text(
        f'_base_ = {str(detector_config)!r}\nmodel = dict(backbone={backbone!r})\n'
    )
    options = (
        'train_cfg.max_epochs=1',
        *(
            f'{part}_dataloader.dataset.pipeline.2.scale=(192,192)'
            for part in ('train', 'val')
        ),
    )
    call('train', config, '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    log = newest_log(tmp_path / 'run')
    assert epochs(tmp_path / 'run') == ['epoch_1.pth']
    for words in ('never trained', 'overwritten', 'other shapes'):
        assert words not in log


@pytest.mark.slow
@pytest.mark.parametrize(
    'form', ["[dict(type='Pretrained', {})]", "dict(type='mmengine.Pretrained', {})"]
)
def test_weights_overwritten_by_mmpretrain_are_reported(
    form, classifier_config, tmp_path
):
    """It zeroes the last norms unless the type is exactly 'Pretrained'."""
    plain = RLAResNet(50, rla_channels=0, base_channels=8, stem_channels=8)
    weights = plain.state_dict()
    for name in weights:
        if name.endswith('bn3.weight'):
            weights[name].fill_(0.5)
    torch.save(weights, tmp_path / 'plain.pth')
    config = tmp_path / 'upstream.py'
    init_cfg = form.format(f'checkpoint={str(tmp_path / "plain.pth")!r}')
    config.write_text(
        f'_base_ = {str(classifier_config)!r}\n'
        'model = dict(\n'
        "    backbone=dict(_delete_=True, type='ResNet', depth=50, base_channels=8,\n"
        f'        stem_channels=8, init_cfg={init_cfg}),\n'
        "    neck=dict(_delete_=True, type='GlobalAveragePooling'),\n"
        "    head=dict(_delete_=True, type='LinearClsHead', num_classes=2,\n"
        '        in_channels=256, topk=(1,)))\n'
    )
    call('train', config, '--work-dir', tmp_path / 'run')
    (line,) = [x for x in newest_log(tmp_path / 'run').splitlines() if 'overwr' in x]
    assert '16 tensors' in line
    assert 'bn3.weight' in line
