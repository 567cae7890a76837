# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Weights of plain networks are loaded, others are refused."""

import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmrla.models import RLALinearClsHead, RLANeck, WeightsMismatchError
from mmrla.models.pretrained import as_pretrained

Weights = Dict[str, Tensor]
SMALL: Dict[str, Any] = dict(base_channels=8, stem_channels=8)


def _plain(library: str = 'mmdet', **kwargs: Any) -> nn.Module:
    """A plain network with drawn weights and statistics, none of them zero."""
    torch.manual_seed(0)
    kwargs = {**dict(type='ResNet', depth=50, **SMALL), **kwargs}
    with DefaultScope.overwrite_default_scope(library):
        model = MODELS.build(kwargs)
    for name, value in model.state_dict().items():
        if name.endswith(('running_var', 'weight')) and value.ndim == 1:
            value.uniform_(0.5, 1)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
    model.train(False)
    return model


def _rla(library: str = 'mmdet', **kwargs: Any) -> nn.Module:
    kwargs = {**dict(type='RLAResNet', depth=50, rla_channels=4, **SMALL), **kwargs}
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope(library):
        return MODELS.build(kwargs)


def _assert_same(model: nn.Module, plain: nn.Module) -> None:
    x = torch.randn(2, 3, 64, 96)
    model.train(False)
    with torch.no_grad():
        for a, b in zip(model(x), plain(x)):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def _torchvision(weights: Weights) -> Any:
    return {**weights, 'fc.weight': torch.zeros(5, 256), 'fc.bias': torch.zeros(5)}


def _mmpretrain(weights: Weights) -> Any:
    named = {f'backbone.{name}': value for name, value in weights.items()}
    return dict(meta={}, state_dict={**named, 'head.fc.weight': torch.zeros(5, 256)})


def _caffe(weights: Weights) -> Any:
    """As in open-mmlab's caffe files, without batch counters."""
    kept = {k: v for k, v in weights.items() if 'num_batches' not in k}
    return dict(state_dict=kept)


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    ('form', 'prefix', 'kwargs'),
    [
        (_torchvision, None, {}),
        (_mmpretrain, 'backbone.', {}),
        (_caffe, None, dict(style='caffe')),
        (_torchvision, None, dict(depth=18)),
    ],
    ids=['torchvision', 'mmpretrain', 'caffe', 'resnet18'],
)
def test_files_of_each_library(
    library: str, form: Callable, prefix: Any, kwargs: dict, tmp_path: Path
) -> None:
    plain = _plain(library, **kwargs)
    torch.save(form(plain.state_dict()), tmp_path / 'plain.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    if prefix:
        init_cfg['prefix'] = prefix
    model = _rla(library, init_cfg=init_cfg, **kwargs)
    model.init_weights()
    _assert_same(model, plain)


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    'form',
    [
        lambda cfg: cfg,
        lambda cfg: [cfg],
        lambda cfg: [dict(type='Kaiming', layer='Conv2d'), cfg],
        lambda cfg: dict(cfg, type=PretrainedInit),
        lambda cfg: dict(cfg, type='PretrainedInit'),
        lambda cfg: dict(cfg, type='mmengine.Pretrained'),
    ],
    ids=['dict', 'list', 'longer list', 'class', 'name of class', 'scoped name'],
)
def test_each_form_of_init_cfg(library: str, form: Callable, tmp_path: Path) -> None:
    """In none of them the last norms are zeroed after loading."""
    plain = _plain(library)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    cfg = form(dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth')))
    model = _rla(library, init_cfg=cfg)
    model.init_weights()
    assert model.layer1[0].bn3.weight.abs().min() > 0
    _assert_same(model, plain)


def test_load_from_and_load_state_dict(tmp_path: Path) -> None:
    plain = _plain()
    detector = nn.ModuleDict(dict(backbone=_rla()))
    torch.save(_mmpretrain(plain.state_dict()), tmp_path / 'detector.pth')
    load_checkpoint(detector, str(tmp_path / 'detector.pth'))
    _assert_same(detector['backbone'], plain)
    model = _rla()
    model.load_state_dict(plain.state_dict(), strict=False)
    _assert_same(model, plain)


def test_log_counts_loaded_tensors(caplog: pytest.LogCaptureFixture) -> None:
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        _rla().load_state_dict(_plain().state_dict(), strict=False)
        lines = [r.getMessage() for r in caplog.records if 'start at zero' in r.message]
    finally:
        logger.removeHandler(caplog.handler)
    assert len(lines) == 1
    # 53 convs, and 53 norms with four tensors each
    assert '265 of 265 tensors' in lines[0]


def test_all_of_rla_learns_from_plain_weights() -> None:
    """Reads in the first step, C1, C3 and BN_t, which they hide, in the second."""
    model = _rla()
    model.load_state_dict(_plain().state_dict(), strict=False)
    # In float64, as the first changes are small.
    model.double().train()
    x = torch.randn(4, 3, 64, 64, dtype=torch.double)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    moved: List[set] = []
    for _ in range(2):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.zero_grad()
        sum(out.square().mean() for out in model(x)).backward()
        optimizer.step()
        moved.append(
            {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        )
    reads = {n for n, _ in model.named_parameters() if '.read.' in n}
    rest = {n for n, _ in model.named_parameters() if n.startswith('rla.')} - reads
    # The first read sees h_0 = 0.
    assert moved[0] & (reads | rest) == reads - {'rla.0.read.0.weight'}
    assert rest <= moved[1]


def _renamed(weights: Weights, old: str, new: str) -> Weights:
    return {name.replace(old, new): value for name, value in weights.items()}


MISFITS: Dict[str, Tuple[dict, Callable, dict, str]] = {
    'deeper': (dict(depth=101), lambda w: w, {}, 'deeper network.*set depth'),
    'shallower': (dict(depth=50), lambda w: w, dict(depth=101), 'convs are without'),
    'basic blocks': (dict(depth=18), lambda w: w, {}, 'set depth, widths and class'),
    'R34 for R18': (dict(depth=34), lambda w: w, dict(depth=18), 'deeper network'),
    'wider': (
        dict(base_channels=16),
        lambda w: w,
        {},
        r'\(16, 8, 1, 1\) in the file and \(8, 8, 1, 1\) in the network',
    ),
    'prefix': ({}, _mmpretrain, {}, "prefix='backbone.' would fit"),
    'other family': (
        dict(type='MobileNetV2', depth=None),
        lambda w: _renamed(w, 'layer', 'features.'),
        {},
        "none of its names is this network's",
    ),
    'version 0.1': (
        {},
        lambda w: _renamed(w, 'layer1.', 'layer1.blocks.'),
        {},
        'mmrla 0.1',
    ),
    'nothing': ({}, lambda w: {'a': torch.ones(1)}, {}, 'none of its names'),
}


@pytest.mark.parametrize(
    ('kind', 'source'), [*((kind, 'file') for kind in MISFITS), ('deeper', 'scheme')]
)
def test_weights_of_another_network_are_refused(
    kind: str, source: str, tmp_path: Path
) -> None:
    """From any source, as the loaded weights are compared."""
    theirs, change, ours, message = MISFITS[kind]
    theirs = {k: v for k, v in theirs.items() if v is not None}
    if 'type' in theirs:
        theirs['widen_factor'] = 0.25
    kwargs = {**SMALL, 'depth': 50} if 'type' not in theirs else {}
    weights = change(_plain(**{**kwargs, **theirs}).state_dict()) if kwargs else None
    if weights is None:
        with DefaultScope.overwrite_default_scope('mmdet'):
            weights = change(MODELS.build(theirs).state_dict())
    path = str(tmp_path / 'weights.pth')
    torch.save(weights, path)
    checkpoint = path
    if source == 'scheme':
        CheckpointLoader.register_scheme(
            'zoo://', lambda *a, **kw: torch.load(path), force=True
        )
        checkpoint = 'zoo://resnet50'
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    model = _rla(init_cfg=init_cfg, **ours)
    with pytest.raises(WeightsMismatchError, match=message):
        model.init_weights()


def test_released_files_must_be_converted(released: Any, tmp_path: Path) -> None:
    path = str(released.save('rla_resnet50', tmp_path / 'r.pth.tar', constant=True))
    model = _rla(init_cfg=dict(type='Pretrained', checkpoint=path))
    with pytest.raises(WeightsMismatchError, match=r'rlanet_to_mmrla\.py'):
        model.init_weights()


def test_a_missing_first_conv_is_a_warning(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As for images with another number of channels, which upstream takes."""
    from mmengine.logging import MMLogger

    plain = _plain()
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        _rla(in_channels=4, init_cfg=init_cfg).init_weights()
        warned = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    finally:
        logger.removeHandler(caplog.handler)
    assert [w for w in warned if 'conv1.weight' in w]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(
            dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
            stage_with_dcn=(False, True, True, True),
        ),
        dict(plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')]),
        dict(num_stages=3, strides=(1, 2, 2), dilations=(1,) * 3, out_indices=(2,)),
        dict(norm_cfg=dict(type='BN', requires_grad=False), frozen_stages=1),
    ],
    ids=['dcn', 'plugin', 'three stages', 'frozen norms'],
)
def test_new_or_missing_parts_are_not_refused(kwargs: dict, tmp_path: Path) -> None:
    torch.save(_plain().state_dict(), tmp_path / 'plain.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    model = _rla(init_cfg=init_cfg, **kwargs)
    model.init_weights()
    assert torch.equal(model.layer1[0].conv1.weight, _plain().layer1[0].conv1.weight)


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
def test_weights_with_rla_are_all_loaded(library: str, tmp_path: Path) -> None:
    source = _rla(library, return_hidden=True)
    for value in source.parameters():
        nn.init.normal_(value)
    path = str(tmp_path / 'rla.pth')
    torch.save(_mmpretrain(source.state_dict()), path)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    model = _rla(init_cfg=init_cfg)
    model.init_weights()
    weights = source.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]), name
    for kwargs, message in (
        (dict(rla_channels=6), 'other RLA units.*set rla_channels'),
        (dict(shared=False), 'other RLA units'),
    ):
        with pytest.raises(WeightsMismatchError, match=message):
            _rla(init_cfg=init_cfg, **kwargs).init_weights()


def test_as_pretrained_leaves_other_configs_alone() -> None:
    for cfg in (None, dict(type='Kaiming', layer='Conv2d'), [dict(type='Constant')]):
        assert as_pretrained(cfg) == (cfg, False)


# Frozen stages and norm_eval


def test_units_of_frozen_stages_are_trained() -> None:
    model = _rla(frozen_stages=2, norm_eval=True).train()
    assert not any(p.requires_grad for p in model.layer2.parameters())
    assert all(p.requires_grad for p in model.rla.parameters())
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {n for n, m in norms.items() if m.training} == {
        n for n in norms if n.startswith('rla.')
    }
    sum(out.mean() for out in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.rla.parameters())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_freeze_rla_freezes_the_units_of_frozen_stages() -> None:
    model = _rla(frozen_stages=2, norm_eval=True, freeze_rla=True).train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n for n in frozen if n.startswith('rla.')} == {
        n for n, _ in model.named_parameters() if n.startswith(('rla.0.', 'rla.1.'))
    }
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.training for m in norms)


def test_norms_of_units_are_always_learnable() -> None:
    model = _rla(norm_cfg=dict(type='BN', requires_grad=False))
    assert all(p.requires_grad for p in model.rla.parameters())


# Classifiers


@pytest.mark.parametrize('name', ['fc', 'linear', 'classifier', 'classifier.1'])
def test_a_plain_classifier_keeps_its_scores(name: str, tmp_path: Path) -> None:
    plain = _plain('mmpretrain')
    fc = nn.Linear(256, 5)
    weights = {
        **plain.state_dict(),
        f'{name}.weight': fc.weight.detach(),
        f'{name}.bias': fc.bias.detach(),
    }
    path = str(tmp_path / 'plain.pth')
    torch.save(weights, path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    model = _rla('mmpretrain', return_hidden=True, init_cfg=init_cfg)
    head = RLALinearClsHead(5, 256, rla_channels=4, init_cfg=init_cfg)
    model.init_weights()
    head.init_weights()
    model.train(False)
    neck = RLANeck(4).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = fc(plain(x)[-1].mean((2, 3)))
        torch.testing.assert_close(head(neck(model(x))), expected)
    assert head.fc.weight.shape == (5, 260)


def test_a_classifier_of_mmpretrain_keeps_its_scores(tmp_path: Path) -> None:
    cfg: Dict[str, Any] = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, **SMALL),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=64),
    )
    x = torch.randn(2, 3, 64, 96)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = MODELS.build(cfg).eval()
        torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
        cfg['backbone'].update(type='RLAResNet', return_hidden=True)
        cfg['neck'] = dict(type='RLANeck')
        cfg['head']['type'] = 'RLALinearClsHead'
        model = MODELS.build(cfg).eval()
    load_checkpoint(model, str(tmp_path / 'plain.pth'))
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x))
