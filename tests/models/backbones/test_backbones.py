# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What all backbones have in common, over one table of networks."""

from typing import Any, Dict

import pytest
import torch
from torch import nn

from mmrla.models import RLANeck, WiringMismatchError

from .conftest import CASES, COVERING, FAMILIES, RESNETS, Case, each

#: Tests of networks outside ``COVERING`` are slow ones.
all_cases = each(FAMILIES, COVERING)
rla_cases = each(CASES, COVERING)


def _all_outputs(case: Case) -> tuple:
    """Indices of all stages and, of MobileNetV2, the last conv."""
    return tuple(range(max(case.stages, case.last + 1)))


def _assert_gradients(case: Case, *models: nn.Module) -> None:
    """Every parameter has one, as DDP with find_unused_parameters=False needs."""
    zero = set()
    for model in models:
        for name, param in model.named_parameters():
            assert param.grad is not None, name
            if not param.grad.abs().sum() > 0:
                zero.add(name)
    # The first read sees h_0 = 0, and so does BN_1 of v2, v4 and v6.
    assert {name for name in zero if not name.startswith('rla.0.read.0.')} <= (
        {'rla.0.norms.0.weight'}
        if case.kwargs.get('integration') in ('v2', 'v4', 'v6')
        else set()
    )


@pytest.mark.parametrize('case', FAMILIES, ids=lambda c: c.name)
def test_every_parameter_gets_a_gradient_in_a_detector(case: Case) -> None:
    model = case.build(out_indices=_all_outputs(case))
    outs = model(torch.randn(4, 3, 64, 64))
    assert len(outs) == len(_all_outputs(case))
    sum(out.square().mean() for out in outs).backward()
    _assert_gradients(case, model)


@pytest.mark.parametrize('case', CASES, ids=lambda c: c.name)
def test_every_parameter_gets_a_gradient_in_a_classifier(case: Case) -> None:
    model = case.build(return_hidden=True)
    neck = RLANeck(case.rla_channels)
    outs = model(torch.randn(4, 3, 64, 64))
    (features,) = neck(outs)
    assert features.shape == (4, outs[0].shape[1] + case.rla_channels)
    features.square().mean().backward()
    _assert_gradients(case, model, neck)


@each(RESNETS, COVERING)
def test_names_are_the_plain_networks_plus_rla(case: Case) -> None:
    """And with the plain network's weights so are the outputs."""
    model = case.build()
    plain = case.build(rla_channels=0)
    weights = plain.state_dict()
    own = model.state_dict()
    assert {name for name in own if not name.startswith('rla.')} == set(weights)
    model.load_state_dict(weights, strict=False)
    model.train(False)
    plain.train(False)
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        for a, b in zip(model(x), plain(x)):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@all_cases
def test_early_outputs_leave_no_parameter_unused(case: Case) -> None:
    expected = case.build(out_indices=_all_outputs(case))(torch.randn(2, 3, 64, 64))
    for out_index in (0, 2):
        model = case.build(out_indices=(out_index,))
        (out,) = model(torch.randn(2, 3, 64, 64))
        assert out.shape == expected[out_index].shape
        out.square().mean().backward()
        # Upstream builds later stages all the same.
        is_own = case.type in ('RLAPreActResNet', 'RLAXception', 'DenseNetBC')
        for name, param in model.named_parameters():
            if is_own or name.startswith('rla.'):
                assert param.grad is not None, name


@all_cases
def test_odd_sizes(case: Case) -> None:
    model = case.build(out_indices=_all_outputs(case))
    model.train(False)
    for size in (33, 47), (97, 65), (32, 200):
        with torch.no_grad():
            outs = model(torch.randn(1, 3, *size))
        assert all(out.isfinite().all() for out in outs)
        # Strided convs round up when they halve; DenseNet's poolings round down.
        for a, b in zip(outs, outs[1:] if case.type != 'DenseNetBC' else ()):
            assert a.shape[2] in (b.shape[2], 2 * b.shape[2], 2 * b.shape[2] - 1)


@rla_cases
def test_one_image_in_training(case: Case) -> None:
    """h_0 then has one value per channel, too few for a norm that reads it alone."""
    if case.name == 'resnest':
        pytest.skip('its own attention has a norm of one value per channel')
    outs = case.build()(torch.randn(1, 3, 64, 64))
    assert all(out.isfinite().all() for out in outs)


@all_cases
def test_state_dict_round_trip(case: Case) -> None:
    model, other = case.build(), case.build()
    for p in other.parameters():
        nn.init.normal_(p)
    other.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    model.train(False)
    other.train(False)
    with torch.no_grad():
        assert torch.equal(model(x)[0], other(x)[0])


@rla_cases
def test_classifier_weights_load_into_a_detector(case: Case) -> None:
    """All but the last update, which a detector does not have."""
    classifier, detector = case.build(return_hidden=True), case.build()
    names = set(classifier.state_dict()) - set(detector.state_dict())
    assert all(name.startswith('rla.') for name in names)
    # Without exchange a detector has no units.
    strict = case.kwargs.get('exchange', True)
    detector.load_state_dict(classifier.state_dict(), strict=strict)
    classifier.train(False)
    detector.train(False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier(x)[0], detector(x)[0])


@rla_cases
def test_weights_of_another_wiring_are_refused(case: Case) -> None:
    other = 'v1' if case.kwargs.get('integration') in ('v2', 'v3') else 'v3'
    weights = case.build(return_hidden=True).state_dict()
    model = case.build(return_hidden=True, integration=other)
    for strict in (True, False):
        with pytest.raises(WiringMismatchError, match=f"integration='{other}'"):
            model.load_state_dict(weights, strict=strict)


@all_cases
def test_initialisation_is_deterministic(case: Case) -> None:
    first, second = case.build(idle=True), case.build(idle=True)
    for (name, a), b in zip(first.named_parameters(), second.parameters()):
        assert torch.equal(a, b), name


@rla_cases
def test_units_are_drawn_by_fan_out(case: Case) -> None:
    """He normal: the variance is 2 / (output channels * kernel area)."""
    unit = case.build(return_hidden=True).rla[-1]
    weight = unit.compress[-1].weight
    assert weight.std().item() == pytest.approx((2 / len(weight)) ** 0.5, rel=0.35)


@rla_cases
def test_layer_depth_of_every_parameter(case: Case) -> None:
    model = case.build()
    blocks = sum(len(layer) for layer in model.layers_of_blocks)
    depths: Dict[str, int] = {}
    for name, _ in model.named_parameters():
        depth, layers = model.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert layers == blocks + 2
        depths[name] = depth
    assert set(depths.values()) >= set(range(blocks + 1))
    assert model.get_layer_depth('head.fc.weight', 'backbone.')[0] == blocks + 1
    if model.rla is not None:
        assert depths['rla.0.compress.0.weight'] == len(model.layers_of_blocks[0])
        if model.rla[0].read is not None:
            reads = {d for n, d in depths.items() if n.startswith('rla.0.read.0.')}
            assert reads == {1}


@all_cases
def test_last_norm_belongs_to_the_main_network(case: Case) -> None:
    """Grad-CAM tools take the last registered norm as their target."""
    model = case.build()
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms[-1].startswith('rla.')


@all_cases
def test_frozen_stages_and_norm_eval(case: Case) -> None:
    if case.type == 'DenseNetBC':
        pytest.skip('has neither')
    model = case.build(frozen_stages=1, norm_eval=True)
    model.train()
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert any(n.startswith('layer1.') for n in frozen)
    assert not any(n.startswith(('layer2.', 'rla.')) for n in frozen)
    out = sum(o.mean() for o in model(torch.randn(2, 3, 64, 64)))
    out.backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in frozen), name


def test_drop_path_leaves_the_hidden_state_alone() -> None:
    case = next(c for c in CASES if c.name == 'mmpretrain-resnet')
    kwargs: Dict[str, Any] = dict(norm_eval=True)
    model = case.build(drop_path_rate=0.9, **kwargs).train()
    plain = case.build(**kwargs).train()
    plain.load_state_dict(model.state_dict())
    x = model.forward_stem(torch.randn(8, 3, 32, 32))
    h = model.zero_state(x)
    x, h = plain.step(0, 0, x, h)
    first, expected = model.step(0, 1, x, h), plain.step(0, 1, x, h)
    torch.testing.assert_close(first[1], expected[1])
    assert not torch.equal(first[0], expected[0])
