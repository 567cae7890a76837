# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmrla.engine import StartHook
from mmrla.engine.errors import one_line_errors
from mmrla.engine.start import check_training, leave_nothing, untrained
from mmrla.errors import UserError
from mmrla.models import RLAResNet

#: Of a data set without classes.
LOOP = SimpleNamespace(dataloader=SimpleNamespace(dataset=None))


def resnet(library='mmdet', **kwargs):
    pytest.importorskip(library)
    kwargs = dict(dict(type='ResNet', depth=18, base_channels=8), **kwargs)
    with DefaultScope.overwrite_default_scope(library):
        return MODELS.build(dict(stem_channels=8, **kwargs))


class Net(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


LAYERS = [f'backbone.layer{i}' for i in (1, 2, 3, 4)]


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    'kwargs, frozen, norms',
    [
        (dict(frozen_stages=-1, norm_eval=False), [], []),
        (
            dict(frozen_stages=1, norm_eval=False),
            ['backbone.conv1', 'backbone.layer1'],
            ['backbone.bn1', 'backbone.layer1'],
        ),
        (dict(frozen_stages=-1, norm_eval=True), [], ['backbone']),
        (
            dict(frozen_stages=4, norm_eval=False, norm_cfg=dict(type='GN')),
            ['backbone'],
            [],
        ),
    ],
)
def test_untrained_parts_are_named(no_init, library, kwargs, frozen, norms):
    if 'norm_cfg' in kwargs:
        kwargs = dict(kwargs, norm_cfg=dict(type='GN', num_groups=4))
    backbone = resnet(library, **kwargs)
    model = Net(backbone=backbone, head=nn.Linear(2, 2)).train()
    assert untrained(model, set()) == (frozen, norms)
    # Weights of a file, with statistics of any kind, or that have been trained.
    arrived = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    assert untrained(model, arrived) == ([], [])
    for norm in backbone.modules():
        if isinstance(norm, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.normal_(norm.bias)
            getattr(norm, 'running_mean', norm.bias).data.normal_()
    assert untrained(model, set()) == ([], [])


def test_frozen_units_of_rla_are_named(no_init):
    """With weights of a plain network, freeze_rla freezes untrained units."""
    backbone = RLAResNet(
        18, rla_channels=4, base_channels=8, frozen_stages=1, freeze_rla=True
    )
    arrived = {
        f'backbone.{name}' for name in backbone.state_dict() if 'rla.' not in name
    }
    frozen, norms = untrained(Net(backbone=backbone).train(), arrived)
    assert frozen == ['backbone.rla.0']
    assert norms == ['backbone.rla']  # mmdet's norm_eval is True
    backbone.freeze_rla = False
    backbone.rla.requires_grad_(True)
    assert untrained(Net(backbone=backbone).train(), arrived) == ([], [])


def test_teachers_do_not_count_as_untrained(no_init):
    """Neither a teacher that a hook averages, nor MMEngine's averaged model."""
    student = resnet(norm_eval=False)
    teacher = resnet(norm_eval=False).requires_grad_(False)
    teacher.train = lambda mode=True: nn.Module.train(teacher, False)
    assert untrained(Net(student=student, teacher=teacher).train(), set()) == ([], [])
    average = ExponentialMovingAverage(student).requires_grad_(False).eval()
    assert untrained(Net(student=student, average=average), set()) == ([], [])
    # A teacher of another kind follows nobody.
    model = Net(student=nn.Conv2d(3, 3, 1), teacher=teacher).train()
    assert untrained(model, set()) == (['teacher'], ['teacher'])


@pytest.mark.parametrize('resume', [False, True])
def test_loaded_checkpoint_counts_as_trained(no_init, caplog, resume):
    """With load_from and resume, even with statistics of mean 0 and variance 1."""
    logger = MMLogger.get_current_instance()
    model = Net(backbone=resnet(norm_eval=True))
    runner = SimpleNamespace(
        model=model, _load_from='x.pth', _resume=resume, logger=logger, train_loop=LOOP
    )
    for loaded in (False, True):
        hook = StartHook()
        hook.before_run(runner)
        if loaded:
            checkpoint = dict(state_dict=model.state_dict())
            hook.after_load_checkpoint(runner, checkpoint)
            model.load_state_dict(checkpoint['state_dict'])
        logger.addHandler(caplog.handler)
        try:
            caplog.clear()
            hook.before_train(runner)
        finally:
            logger.removeHandler(caplog.handler)
        warned = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warned) == (not loaded)
        assert loaded or 'backbone' in warned[0].getMessage()


class Renaming(nn.Module):
    """Reads weights of its part alone, as SoftTeacher does."""

    def __init__(self, **kwargs):
        super().__init__()
        self.student = Net(backbone=resnet(**kwargs))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in [n for n in state_dict if not n.startswith('student.')]:
            state_dict[f'student.{name}'] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args)


@pytest.mark.parametrize('begin', ['before_train', 'before_test'])
def test_models_that_rename_weights_on_loading(no_init, begin):
    weights = Net(backbone=resnet()).state_dict()
    for depth in (18, 50):
        model = Renaming(depth=depth)
        runner = SimpleNamespace(
            model=model,
            _load_from='x.pth',
            _resume=False,
            logger=MMLogger.get_current_instance(),
            train_loop=LOOP,
            test_loop=LOOP,
        )
        hook = StartHook()
        hook.watch(model)
        hook.after_load_checkpoint(runner, dict(state_dict=weights))
        load_state_dict(model, weights, logger='silent')
        if depth == 18:
            getattr(hook, begin)(runner)
        else:
            with pytest.raises(UserError, match=r'x\.pth belongs to another'):
                getattr(hook, begin)(runner)


def test_loading_averages_is_not_recorded(no_init):
    """EMAHook loads into a copy of the network, which shares its hooks."""
    model = Net(backbone=resnet())
    hook = StartHook()
    hook.watch(model)
    average = ExponentialMovingAverage(model)
    average.module.load_state_dict(model.state_dict())
    assert hook._arrivals is not None
    assert not hook._arrivals.loads
    model.load_state_dict(model.state_dict())
    assert len(hook._arrivals.loads) == 1


# --- layer-wise decay ---------------------------------------------------------


def decayed(model, **paramwise):
    cfg = dict(
        optimizer=dict(type='SGD', lr=1.0),
        constructor='mmrla.LayerDecayConstructor',
        paramwise_cfg=paramwise,
    )
    wrapper = build_optim_wrapper(model, cfg)
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    return {names[id(g['params'][0])]: g['lr'] for g in groups}


def test_layer_decay_of_detector(no_init):
    """8 blocks, the stem and the heads are 10 layers."""
    backbone = RLAResNet(18, rla_channels=4, base_channels=8, frozen_stages=1)
    model = Net(backbone=backbone, neck=nn.Conv2d(3, 3, 1), head=nn.Conv2d(3, 3, 1))
    rates = decayed(model, layer_decay_rate=0.5, custom_keys={'neck': dict(lr_mult=3)})
    assert set(rates) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert rates['head.weight'] == 1
    assert rates['neck.weight'] == 3
    assert rates['backbone.layer4.1.conv2.weight'] == 0.5
    assert rates['backbone.layer2.0.conv1.weight'] == 0.5**6
    assert rates['backbone.rla.3.norms.0.weight'] == 0.5**2
    assert 'backbone.conv1.weight' not in rates  # frozen


@pytest.mark.parametrize(
    'backbone, rate, message',
    [
        (nn.Conv2d(1, 1, 1), 0.5, 'Conv2d has no get_layer_depth'),
        (None, 0, 'layer_decay_rate=0 is not'),
        (None, None, 'layer_decay_rate=None is not'),
    ],
)
def test_layer_decay_refuses(no_init, backbone, rate, message):
    backbone = backbone or RLAResNet(18, rla_channels=4, base_channels=8)
    with pytest.raises(ValueError, match=message):
        decayed(Net(backbone=backbone), layer_decay_rate=rate, unused=1)


@pytest.mark.parametrize(
    'change, rla_channels, message',
    [
        (dict(constructor='LearningRateDecayOptimizerConstructor'), 4, 'RLAResNet'),
        (dict(optimizer=dict(type='Adamm')), 4, "type='Adamm'.*is 'Adam' meant"),
        (dict(), 4, r"efficient_conv_bn_eval=\['backbone'\].*RLAResNet"),
        (dict(), 0, None),
        (None, 0, r"no module 'bakbone', it has backbone"),
    ],
)
def test_unsupported_training_settings(no_init, change, rla_channels, message):
    model = Net(backbone=RLAResNet(18, rla_channels=rla_channels, base_channels=8))
    fused = ['backbone'] if change is not None else ['bakbone']
    cfg = Config(dict(optim_wrapper=change, efficient_conv_bn_eval=fused))
    if message is None:
        check_training(model, cfg)
        return
    with pytest.raises(UserError, match=message):
        check_training(model, cfg)


# --- what a refused run leaves ------------------------------------------------


@pytest.mark.parametrize('began', [False, True])
@pytest.mark.parametrize('was_there', [False, True])
def test_refused_run_leaves_nothing(tmp_path, monkeypatch, began, was_there):
    work_dir = tmp_path / 'runs' / 'one'
    if was_there:
        work_dir.mkdir(parents=True)
        (work_dir / 'x.py').write_text('precious')
    (tmp_path / 'x.py').write_text('')
    cfg = Config(dict(work_dir=str(work_dir)), filename=str(tmp_path / 'x.py'))
    logger = MMLogger('refused', 'refused')
    monkeypatch.setattr(MMLogger, 'get_current_instance', lambda: logger)

    @one_line_errors
    def main():
        hook = StartHook()
        leave_nothing(cfg, hook)
        (work_dir / 'time').mkdir(parents=True)
        handler = logging.FileHandler(work_dir / 'time' / 'log')
        logger.addHandler(handler)
        if not was_there:
            (work_dir / 'x.py').write_text('dumped')
        if began:
            hook.before_train_epoch(None)
        raise UserError('no')

    with pytest.raises(SystemExit):
        main()
    left = sorted(str(p.relative_to(tmp_path)) for p in Path(tmp_path).rglob('*'))
    if began:
        assert 'runs/one/time/log' in left
    elif was_there:
        assert left == ['runs', 'runs/one', 'runs/one/x.py', 'x.py']
    else:
        assert left == ['x.py']


def test_interrupted_tool_exits_with_130(capsys):
    @one_line_errors
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1
