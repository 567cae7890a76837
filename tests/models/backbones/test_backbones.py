# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What every RLA backbone must do, over one table of networks."""

from typing import Any, Dict, List

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from mmrla.models import RLANeck

from .conftest import CASES, PLAIN, Case

COMPILED = [c for c in CASES if c.name in ('resnet-v1', 'resnet-v3', 'mobilenet')]
all_cases = pytest.mark.parametrize('case', CASES + PLAIN, ids=lambda c: c.name)
rla_cases = pytest.mark.parametrize('case', CASES, ids=lambda c: c.name)


def _grad_norms(model: nn.Module) -> Dict[str, float]:
    return {
        name: float('nan') if p.grad is None else p.grad.abs().sum().item()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _assert_gradients(case: Case, grads: Dict[str, float]) -> None:
    if case.kwargs.get('integration') in ('v2', 'v4', 'v6'):
        # BN_1 reads h_0 = 0 there: its weight's gradient is there, and zero.
        assert grads.pop('layer1.rla.norms.0.weight') == 0
    assert not [name for name, norm in grads.items() if not norm > 0]


@all_cases
def test_every_parameter_gets_a_gradient_in_a_detector(case: Case) -> None:
    """DDP with find_unused_parameters=False refuses a parameter without one."""
    # With zero-initialised branches most gradients would be exactly zero.
    model = case.build(
        out_indices=tuple(range(case.num_stages)), zero_init_residual=False
    )
    outs = model(torch.randn(4, 3, 64, 64))
    assert len(outs) == case.num_stages
    sum(out.square().mean() for out in outs).backward()
    _assert_gradients(case, _grad_norms(model))


@rla_cases
def test_every_parameter_gets_a_gradient_in_a_classifier(case: Case) -> None:
    model = case.build(return_hidden=True, zero_init_residual=False)
    neck = RLANeck(rla_channels=4)
    (features,) = neck(model(torch.randn(4, 3, 96, 96)))
    assert features.shape == (4, model.out_channels[-1] + 4)
    features.square().mean().backward()
    _assert_gradients(case, {**_grad_norms(model), **_grad_norms(neck)})


@all_cases
@pytest.mark.parametrize('out_index', [0, 2])
def test_early_outputs_build_no_dead_parameters(case: Case, out_index: int) -> None:
    model = case.build(out_indices=(out_index,), zero_init_residual=False)
    (out,) = model(torch.randn(2, 3, 64, 64))
    assert out.shape[1] == model.out_channels[0]
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not hasattr(model, f'layer{out_index + 2}')


@all_cases
@pytest.mark.parametrize('size', [(33, 47), (97, 65), (32, 200)])
def test_odd_sizes(case: Case, size: tuple) -> None:
    model = case.build(out_indices=tuple(range(case.num_stages))).eval()
    height, width = size
    with torch.no_grad():
        outs = model(torch.randn(1, 3, height, width))
    # Strided convs round up at each halving.
    for i, out in enumerate(outs):
        assert out.isfinite().all()
        assert out.shape[1] == model.out_channels[i]
    if 'dilated' not in case.name:
        assert outs[-1].shape[2:] == (-(-height // 32), -(-width // 32))


@all_cases
@pytest.mark.parametrize('norm_eval', [False, True])
def test_no_shorter_way_changes_a_gradient(case: Case, norm_eval: bool) -> None:
    """Modules with hooks are called: concatenation, and C1 of the residual itself."""
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    results: List[Dict[str, Any]] = []
    for watch in (False, True):
        model = case.build(norm_eval=norm_eval, zero_init_residual=False).double()
        model.train()
        for module in model.modules() if watch else ():
            module.register_forward_hook(lambda *args: None)
        (out,) = model(x)
        out.square().mean().backward()
        results.append(
            {
                'out': out,
                **dict(model.named_buffers()),
                **{n: p.grad for n, p in model.named_parameters()},
            }
        )
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-6, atol=1e-9)


@all_cases
def test_channels_last_changes_no_output(case: Case) -> None:
    model = case.build(zero_init_residual=False).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (expected,) = model(x)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        (out,) = model(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert (out - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.skipif(not torch._dynamo.is_dynamo_supported(), reason='no torch.compile')
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('case', COMPILED, ids=lambda c: c.name)
def test_compiles_as_one_graph_for_all_batch_sizes(case: Case, training: bool) -> None:
    torch._dynamo.reset()
    model = case.build(out_indices=(1,), return_hidden=True, zero_init_residual=False)
    model.train(training)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    for batch_size in (2, 3, 5):
        x = torch.randn(batch_size, 3, 32, 32)
        for a, b in zip(compiled(x), model(x)):
            # In training C1 is not compiled as it is computed otherwise.
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 1


@all_cases
@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_freeze_their_units_too(case: Case, frozen_stages: int) -> None:
    model = case.build(
        frozen_stages=frozen_stages, out_indices=tuple(range(case.num_stages))
    ).train()
    frozen = [] if frozen_stages < 0 else list(model.stem_modules())
    frozen += model.stages[: max(frozen_stages, 0)]
    ids = {id(p) for module in frozen for p in module.parameters()}
    for name, param in model.named_parameters():
        assert param.requires_grad == (id(param) not in ids), name
    for module in frozen:
        assert not any(m.training for m in module.modules())
    out = sum(o.mean() for o in model(torch.randn(2, 3, 64, 64)))
    if any(p.requires_grad for p in model.parameters()):
        out.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@all_cases
def test_norm_eval(case: Case) -> None:
    model = case.build(norm_eval=True).train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert model.training


@all_cases
def test_state_dict_round_trip(case: Case) -> None:
    model = case.build().eval()
    other = case.build().eval()
    for p in other.parameters():
        nn.init.normal_(p)
    other.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x)[0], other(x)[0])


@rla_cases
def test_classifier_weights_load_into_a_detector(case: Case) -> None:
    """The update that the detector lacks is the only thing left out."""
    classifier = case.build(return_hidden=True).eval()
    detector = case.build().eval()
    names = set(classifier.state_dict()) - set(detector.state_dict())
    assert all('.rla.' in name for name in names)
    # Without exchange a detector has no unit at all.
    strict = case.kwargs.get('exchange', True)
    detector.load_state_dict(classifier.state_dict(), strict=strict)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(classifier(x)[0], detector(x)[0])


@all_cases
def test_initialisation_is_deterministic_and_zeroes_branches(case: Case) -> None:
    first, second = case.build(zero_init_residual=True), case.build()
    zeroed = 0
    for (name, a), b in zip(first.named_parameters(), second.parameters()):
        if not torch.equal(a, b):
            assert a.abs().sum() == 0 or b.abs().sum() == 0, name
    for stage in first.stages:
        for block in stage.blocks:
            if block.last_norm is not None:
                zeroed += 1
                assert block.last_norm.weight.abs().sum() == 0
    assert zeroed


@all_cases
def test_layer_depth_of_every_parameter(case: Case) -> None:
    model = case.build()
    total = sum(len(stage.blocks) for stage in model.stages) + 2
    depths = [
        model.get_layer_depth(f'backbone.{name}', 'backbone.')
        for name, _ in model.named_parameters()
    ]
    assert {num_layers for _, num_layers in depths} == {total}
    assert {depth for depth, _ in depths} == set(range(total - 1))
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (total - 1, total)


@all_cases
def test_last_norm_registered_is_not_the_hidden_states(case: Case) -> None:
    """Grad-CAM tools take the last norm of the backbone as their target."""
    model = case.build()
    norms = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert '.blocks.' in norms[-1]
