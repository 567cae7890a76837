# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The deployed form equals the network that it was made from."""

import copy
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrla.analysis.networks import build
from mmrla.engine.config import load_config
from mmrla.models import (
    DenseNetBC,
    RLAPreActResNet,
    RLAResNet,
    RLAXception,
)
from mmrla.models.fused import switch_to_deploy
from mmrla.models.rla import INTEGRATIONS

THIN: Dict[str, Any] = dict(depth=50, base_channels=8, stem_channels=8, rla_channels=4)
RESNETS: Dict[str, Dict[str, Any]] = {
    **{v: dict(integration=v) for v in INTEGRATIONS},
    **{c: dict(cell=c) for c in ('post-act', 'convlstm', 'convgru')},
    **{f'{c}-v3': dict(cell=c, integration='v3') for c in ('post-act', 'convlstm')},
    'unshared': dict(shared=False),
    'unshared-v3': dict(shared=False, integration='v3'),
    'no-exchange': dict(exchange=False),
    'eca': dict(plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')]),
    'eca-v3': dict(
        plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')],
        integration='v3',
    ),
    'resnet18': dict(depth=18),
    'resnet18-v3': dict(depth=18, integration='v3'),
    'caffe': dict(style='caffe', integration='v3'),
    'resnet-d': dict(type='RLAResNetV1d'),
    'resnext': dict(type='RLAResNeXt', groups=4, base_width=4),
    'mmpretrain': dict(type='mmpretrain.RLAResNet'),
    'plain': dict(rla_channels=0),
    'group-norm': dict(norm_cfg=dict(type='GN', num_groups=2)),
    'dcn': dict(
        dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
}
MOBILENETS: Dict[str, Dict[str, Any]] = {
    'paper': dict(),
    'released': dict(recurrent_conv='depthwise', tied=True),
    'v3': dict(integration='v3'),
    'eca': dict(
        plugins=[dict(cfg=dict(type='ECALayer', kernel_size=3), position='after_conv3')]
    ),
    'mmdet': dict(type='RLAMobileNetV2'),
    'plain': dict(rla_channels=0),
    'no-exchange': dict(exchange=False),
    'group-norm': dict(norm_cfg=dict(type='GN', num_groups=1)),
}
#: Networks that are tested without their last update as well, as in a detector.
DETECTORS = ('v1', 'v3', 'convlstm', 'unshared', 'resnet18', 'paper', 'released')


def _with_hidden(cases: Dict[str, Any]) -> List[Tuple[str, bool]]:
    """Names of networks, each with whether it returns its hidden state."""
    classifiers = [(name, name != 'plain') for name in cases]
    return classifiers + [(name, False) for name in cases if name in DETECTORS]


def _randomise(model: nn.Module) -> nn.Module:
    """Give norms statistics as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def _assert_equal(model: nn.Module, size: Tuple[int, int] = (65, 97)) -> None:
    deployed = switch_to_deploy(model)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected, got = model(x), deployed(x)
    assert len(expected) == len(got)
    for a, b in zip(expected, got):
        error = (a - b).abs().max() / a.abs().max()
        assert error < 1e-4
        # Large enough that a missing term shows.
        assert a.abs().max() > 1e-3
    if any(hasattr(m, 'conv_offset') for m in model.modules()):
        return  # mmcv's op on the CPU has neither
    with torch.no_grad():
        deployed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = deployed(x.contiguous(memory_format=torch.channels_last))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            rounded = deployed(x)
    for a, b, c in zip(expected, last, rounded):
        assert (a - b).abs().max() / a.abs().max() < 1e-4
        assert (a - c.float()).abs().max() / a.abs().max() < 0.2
    model = model.double()
    with torch.no_grad():
        exact = model(x.double()), switch_to_deploy(model)(x.double())
    for a, b in zip(*exact):
        assert (a - b).abs().max() / a.abs().max() < 1e-12


@pytest.mark.parametrize(('name', 'return_hidden'), _with_hidden(RESNETS))
def test_resnet(name: str, return_hidden: bool) -> None:
    torch.manual_seed(0)
    kwargs = {'type': 'RLAResNet', **THIN, **RESNETS[name]}
    model = MODELS.build(
        dict(kwargs, return_hidden=return_hidden, out_indices=(0, 1, 2, 3))
    )
    _assert_equal(_randomise(model))


@pytest.mark.parametrize(('name', 'return_hidden'), _with_hidden(MOBILENETS))
def test_mobilenet(name: str, return_hidden: bool) -> None:
    torch.manual_seed(0)
    kwargs = {'type': 'mmpretrain.RLAMobileNetV2', 'rla_channels': 4}
    kwargs = {**kwargs, 'widen_factor': 0.25, **MOBILENETS[name]}
    model = MODELS.build(
        dict(kwargs, return_hidden=return_hidden, out_indices=(0, 1, 2, 4, 6, 7))
    )
    _assert_equal(_randomise(model))


OTHERS: Dict[str, Callable[[], nn.Module]] = {
    'preact': lambda: RLAPreActResNet(
        29, rla_channels=4, bottleneck=True, return_hidden=True
    ),
    'preact-basic': lambda: RLAPreActResNet(20, rla_channels=4, bottleneck=False),
    'preact-plain': lambda: RLAPreActResNet(20, rla_channels=0, bottleneck=False),
    'dual-path': lambda: RLAPreActResNet(20, rla_channels=0, dense_channels=4),
    'xception': lambda: RLAXception(rla_channels=4, return_hidden=True),
    'xception-plain': lambda: RLAXception(rla_channels=0),
    'densenet': lambda: DenseNetBC(22, sharing='lag'),
}


@pytest.mark.parametrize('name', OTHERS)
def test_other_families(name: str) -> None:
    torch.manual_seed(0)
    _assert_equal(_randomise(OTHERS[name]()), (32, 32))


def test_norms_of_a_pre_activated_backbone_stay() -> None:
    torch.manual_seed(0)
    backbone = RLAPreActResNet(20, rla_channels=4, bottleneck=False)
    deployed: Any = switch_to_deploy(_randomise(nn.Sequential(backbone)))
    assert isinstance(deployed[0].norm, nn.BatchNorm2d)


def test_norms_of_each_level_stay() -> None:
    """As in mmdet's RetinaSepBNHead and RTMDetSepBNHead."""
    torch.manual_seed(0)
    levels = [ConvModule(4, 4, 1, norm_cfg=dict(type='BN')) for _ in range(3)]
    levels[1].conv = levels[0].conv
    model = _randomise(nn.Sequential(*levels))
    deployed = switch_to_deploy(model)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(deployed(x), model(x))
    kept = [isinstance(level.norm, nn.BatchNorm2d) for level in deployed]  # type: ignore[attr-defined]
    assert kept == [True, True, False]


def test_only_rla_backbones() -> None:
    torch.manual_seed(0)
    backbone = RLAResNet(**THIN, out_indices=(3,))
    head = ConvModule(256, 4, 1, norm_cfg=dict(type='BN'))
    model = _randomise(nn.ModuleDict(dict(backbone=backbone, head=head)))
    x = torch.randn(1, 3, 64, 64)
    outs = []
    for network in (model, switch_to_deploy(model, only_rla=True)):
        with torch.no_grad():
            outs.append(network['head'](network['backbone'](x)[0]))  # type: ignore[index]
        assert isinstance(network['head'].norm, nn.BatchNorm2d)  # type: ignore[index]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
    assert not any(
        isinstance(m, nn.BatchNorm2d)
        for m in network['backbone'].modules()  # type: ignore[index]
    )


def test_additions_in_place_overwrite_nothing_too_early() -> None:
    """Two runs give the same gradient of the input, and it is the original's."""
    torch.manual_seed(0)
    model = _randomise(RLAResNet(**THIN, **RESNETS['eca'], out_indices=(3,)))
    deployed = switch_to_deploy(model)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    grads = []
    for network in (model, deployed, deployed):
        (out,) = network(x)
        grads.append(torch.autograd.grad(out.square().mean(), x)[0])
    scale = grads[0].abs().max().item()
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-3 * scale)
    assert torch.equal(grads[1], grads[2])


@pytest.mark.parametrize('integration', ['v1', 'v3'])
def test_export(integration: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = _randomise(RLAResNet(**THIN, integration=integration, return_hidden=True))
    deployed = switch_to_deploy(model)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = deployed(x)
        traced = torch.jit.trace(deployed, torch.randn(1, 3, 48, 80))
        traced.save(str(tmp_path / 'deployed.pt'))
        for a, b in zip(torch.jit.load(str(tmp_path / 'deployed.pt'))(x), expected):
            torch.testing.assert_close(a, b)


def test_detector(detector_config: Path) -> None:
    """Features of a deployed detector, and of another one with its weights."""
    pytest.importorskip('mmdet')
    torch.manual_seed(0)
    cfg = load_config(str(detector_config))
    model, other = build(cfg), build(cfg)
    _randomise(model)
    deployed, reloaded = switch_to_deploy(model), switch_to_deploy(other)
    reloaded.load_state_dict(deployed.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.extract_feat(x)
        for network in (deployed, reloaded):
            for a, b in zip(network.extract_feat(x), expected):
                assert (a - b).abs().max() / b.abs().max() < 1e-4


def test_c1_is_merged_for_v1_only() -> None:
    """With the last conv of each block; all norms are folded."""
    for integration, count in (('v1', 16), ('v3', 0)):
        model = RLAResNet(**THIN, integration=integration, return_hidden=True)
        deployed: Any = switch_to_deploy(model)
        assert sum(of_z for unit in deployed.rla for of_z in unit.of_z) == count
        assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())


@pytest.mark.parametrize('kind', ['resnet', 'mobilenet'])
def test_a_norm_that_cannot_be_inverted_stays(kind: str) -> None:
    """BN_t with a weight of zero; one of 1e-20 can be inverted."""
    torch.manual_seed(0)
    model: Any
    if kind == 'resnet':
        model = RLAResNet(**THIN, return_hidden=True)
    else:
        model = MODELS.build(
            dict(type='RLAMobileNetV2', rla_channels=4, widen_factor=0.25)
        )
    _randomise(model)
    model.rla[1].norms[1].weight.data[:] = torch.tensor([-1e-20, 1, 2, -3])
    _assert_equal(copy.deepcopy(model))
    deployed: Any = switch_to_deploy(model)
    assert not deployed.rla[1].norms
    model.rla[1].norms[1].weight.data[0] = 0
    _assert_equal(copy.deepcopy(model))
    kept: Any = switch_to_deploy(model)
    assert len(kept.rla[1].norms) == len(model.rla[1].norms)


def test_deploying_twice_changes_nothing() -> None:
    deployed = switch_to_deploy(RLAResNet(**THIN).eval())
    again = switch_to_deploy(deployed)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(again(x), deployed(x)):
            torch.testing.assert_close(a, b)


def test_classifier_and_round_trip() -> None:
    pytest.importorskip('mmpretrain')
    torch.manual_seed(0)
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(type='RLAResNet', return_hidden=True, **THIN),
        neck=dict(type='RLANeck', rla_channels=4),
        head=dict(
            type='RLALinearClsHead', num_classes=7, in_channels=8 * 32, rla_channels=4
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model, other = MODELS.build(cfg), MODELS.build(cfg)
    _randomise(model)
    deployed = switch_to_deploy(model)
    reloaded = switch_to_deploy(other)
    reloaded.load_state_dict(deployed.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(deployed(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(deployed(x), reloaded(x))


def test_the_original_is_left_alone() -> None:
    model = RLAResNet(**THIN).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    deployed = switch_to_deploy(model)
    assert model.training
    assert not deployed.training
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
