# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Recorded states match the forward pass, and their parts sum to them."""

from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrla.analysis import hidden_state
from mmrla.errors import UserError
from mmrla.models import (
    DenseNetBC,
    RLAMobileNetV2,
    RLAPreActResNet,
    RLAResNet,
    RLAXception,
)
from mmrla.models.backbones.mobilenet_v2 import convs_of

K = 4
FAMILIES: Dict[str, Any] = {
    'resnet': lambda **kw: RLAResNet(50, base_channels=8, rla_channels=K, **kw),
    'mobilenet': lambda **kw: RLAMobileNetV2(
        widen_factor=0.25, rla_channels=K, tied=True, out_indices=(6,), **kw
    ),
    'preact': lambda **kw: RLAPreActResNet(
        29, bottleneck=True, base_channels=8, rla_channels=K, **kw
    ),
    'xception': lambda **kw: RLAXception(
        rla_channels=K,
        entry_channels=(8, 8, 8),
        exit_channels=(16, 16, 16),
        num_middle_blocks=2,
        **kw,
    ),
}


def _trained(model: nn.Module) -> nn.Module:
    """Replace the initial statistics and scales of norms."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.mark.parametrize('family', FAMILIES)
def test_record_matches_forward(family: str) -> None:
    model = _trained(FAMILIES[family](return_hidden=True))
    x = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
    stages = hidden_state.record(model, x)
    assert len(stages) == len(model.rla)
    for stage, unit in zip(stages, model.rla):
        assert stage.unit is unit
        assert [u.block for u in stage.updates] == list(range(unit.num_blocks))
        assert [r.block for r in stage.readings] == list(range(unit.num_blocks))
    outputs = [r.output for stage in stages for r in stage.readings]
    # ReLU may stop some.
    assert sum(output > 0 for output in outputs) > len(outputs) / 2
    assert max(outputs) < 1
    torch.testing.assert_close(stages[-1].updates[-1].after, expected[-1])
    # Nothing is left behind, and the same comes out again.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected)


def test_written_is_c1_of_the_residual() -> None:
    model = _trained(FAMILIES['resnet'](return_hidden=True))
    residuals: List[Tensor] = []
    handle = model.layer2[1].bn3.register_forward_hook(
        lambda m, i, out: residuals.append(out.clone())
    )
    stages = hidden_state.record(model, torch.rand(1, 3, 64, 64))
    handle.remove()
    written = F.conv2d(residuals[0], model.rla[1].compress[0].weight)
    torch.testing.assert_close(stages[1].updates[1].written, written)


def _linear_unit(unit: Any) -> None:
    """No BN_t; tanh is the identity to rounding, where values are small."""
    unit.norms = nn.ModuleList(nn.Identity() for _ in unit.norms)


@pytest.mark.parametrize('integration', ['v1', 'v2', 'v3', 'v4', 'v5', 'v6'])
@pytest.mark.parametrize('linear', [True, False])
def test_parts_of_linear_recurrence_sum_to_state(
    integration: str, linear: bool
) -> None:
    """Eq. 12 without BN_t and tanh is no approximation."""
    model = _trained(FAMILIES['resnet'](return_hidden=True, integration=integration))
    model = model.double()
    for unit in model.rla:
        _linear_unit(unit)
        for conv in unit.compress:
            conv.weight.data *= 1e-4
    stages = hidden_state.record(model, torch.rand(1, 3, 64, 64).double())
    for number, stage in enumerate(stages):
        parts = hidden_state.decompose(stage, linear)
        for t, (update, at) in enumerate(zip(stage.updates, parts)):
            # In later stages, too, what the stage before has left.
            assert sorted(at) == list(range(-1 if number else 0, t + 1))
            total = sum(at.values())
            torch.testing.assert_close(total, update.after, rtol=1e-4, atol=1e-12)


def test_powers_of_c3_by_hand() -> None:
    """h_t has C3 C1 y_t and C3^2 C1 y_{t-1} in it (Eq. 12)."""
    model = _trained(FAMILIES['resnet'](return_hidden=True))
    stage = hidden_state.record(model, torch.rand(1, 3, 64, 64))[0]
    c3 = model.rla[0].recurrent[0].weight

    def conv(x: Tensor) -> Tensor:
        return F.conv2d(x, c3, padding=1)

    with torch.no_grad():
        parts = hidden_state.decompose(stage)
        first, second, third = (u.written for u in stage.updates)
        torch.testing.assert_close(parts[2][2], conv(third))
        torch.testing.assert_close(parts[2][1], conv(conv(second)))
        torch.testing.assert_close(parts[2][0], conv(conv(conv(first))))
        left = [float(conv(conv(w)).norm() / conv(w).norm()) for w in (first, second)]
    survival = hidden_state.survival(parts)
    assert survival[0] == pytest.approx(1)
    assert survival[1] == pytest.approx(sum(left) / 2, rel=1e-5)


def test_parts_match_finite_differences() -> None:
    model = _trained(FAMILIES['resnet'](return_hidden=True)).double()
    x = torch.rand(1, 3, 64, 64).double()
    stage = hidden_state.record(model, x)[0]
    part = hidden_state.decompose(stage, linear=False)[2][0]
    unit, state, step = stage.unit, stage.updates[0].before, 1e-6
    with torch.no_grad():
        for t, update in enumerate(stage.updates):
            scale = 1 + step * (t == 0)
            state = unit.advance(t, scale * update.written, state)
    torch.testing.assert_close(
        (state - stage.updates[2].after) / step, part, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize('cell', ['post-act', 'convlstm', 'convgru'])
def test_cells(cell: str) -> None:
    model = _trained(FAMILIES['resnet'](return_hidden=True, cell=cell))
    stages = hidden_state.record(model, torch.rand(1, 3, 64, 64))
    head, rows = hidden_state.lag_table(stages)
    assert head == ('stage', 'lag', 'powers_of_c3', 'at_this_image')
    assert all(row[3] > 0 for row in rows)
    if cell == 'post-act':
        assert all(row[2] > 0 for row in rows)
        return
    assert all(row[2] == '' for row in rows)
    with pytest.raises(ValueError, match='no powers of C3'):
        hidden_state.decompose(stages[0])


def test_share_of_h_by_hand() -> None:
    model = _trained(FAMILIES['resnet'](return_hidden=True))
    conv, read = model.layer1[2].conv1, model.rla[0].read[2]
    seen: Dict[nn.Module, Tensor] = {}
    handles = [
        m.register_forward_hook(lambda m, i, out: seen.update({m: out.clone()}))
        for m in (conv, read)
    ]
    stage = hidden_state.record(model, torch.rand(1, 3, 64, 64))[0]
    for handle in handles:
        handle.remove()
    reading = stage.readings[2]
    assert reading.channels == pytest.approx(K / (32 + K))
    energy = {m: float(m.weight.detach().square().sum()) for m in (conv, read)}
    share = energy[read] / (energy[read] + energy[conv])
    assert reading.weights == pytest.approx(share, rel=1e-5)
    of_h, of_x = seen[read].square().sum(), seen[conv].square().sum()
    assert reading.output == pytest.approx(float(of_h / (of_h + of_x)), rel=1e-4)
    # The network's first block has no state to read.
    assert stage.readings[0].output == 0


@pytest.mark.parametrize('family', ['mobilenet', 'preact', 'xception'])
def test_first_read_has_no_share_of_state(family: str) -> None:
    """Behind a norm the read of h_0 = 0 is a constant; it has no share of h."""
    model = _trained(FAMILIES[family](return_hidden=True))
    with torch.no_grad():
        read = model.rla[0].read[0](torch.zeros(1, K, 8, 8))
    assert bool(read.any()) == (family != 'xception')
    stages = hidden_state.record(model, torch.rand(1, 3, 32, 32))
    shares = [r.output for stage in stages for r in stage.readings]
    assert shares[0] == 0
    # ReLU may stop some.
    assert sum(share > 0 for share in shares) > len(shares) / 2


def test_share_of_h_in_mobilenet_by_hand() -> None:
    """Blocks without expansion, of a stage's first layer, and of a later one."""
    model = _trained(FAMILIES['mobilenet'](return_hidden=True))
    inputs: Dict[nn.Module, Tensor] = {}
    outputs: Dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: Any, out: Tensor) -> None:
        inputs[module], outputs[module] = args[0].clone(), out.clone()

    places = [(0, 0, model.layer1[0]), (1, 0, model.layer2[0]), (3, 5, model.layer5[1])]
    watched = [
        (model.rla[stage].read[t], convs_of(block)[-1].conv)
        for stage, t, block in places
    ]
    handles = [m.register_forward_hook(keep) for pair in watched for m in pair]
    stages = hidden_state.record(model, torch.rand(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    # The first layer's block has no expansion: a depthwise and a linear conv.
    assert len(convs_of(places[0][2])) == 2
    for (stage, t, _), (read, linear) in zip(places, watched):
        reading = stages[stage].readings[t]
        hidden = linear.in_channels
        assert reading.channels == pytest.approx(K / (hidden + K))
        with torch.no_grad():
            mixed = read.act(read.norm(read.depthwise(inputs[read])))
            # The paper's network: one linear conv of both, concatenated.
            weight = torch.cat((read.pointwise.weight, linear.weight), 1)
            state = mixed.expand(-1, -1, *inputs[linear].shape[2:])
            whole = F.conv2d(torch.cat((state, inputs[linear]), 1), weight)
        total = outputs[linear] + outputs[read]
        torch.testing.assert_close(whole, total, rtol=1e-4, atol=1e-5)
        of_h = outputs[read].square().sum() if inputs[read].any() else torch.tensor(0.0)
        of_x = outputs[linear].square().sum()
        assert reading.output == pytest.approx(float(of_h / (of_h + of_x)), rel=1e-4)


def test_lags_have_several_labels(tmp_path: Path) -> None:
    """The axis has enough tick labels at any rate of decay."""
    pytest.importorskip('matplotlib')
    for left in (0.9, 0.41, 0.02):
        rows = [('layer1', lag, 3.0**lag, left**lag) for lag in range(5)]
        figure = hidden_state.draw_lags(rows)
        figure.savefig(tmp_path / 'lags.png')
        for ax in figure.axes:
            low, high = ax.get_ylim()
            labels = [t for t in ax.get_yticks() if low <= t <= high]
            assert 3 <= len(labels) <= 12, (left, labels)


def test_no_readings_without_exchange() -> None:
    model = _trained(FAMILIES['resnet'](return_hidden=True, exchange=False))
    stages = hidden_state.record(model, torch.rand(1, 3, 64, 64))
    assert not any(stage.readings for stage in stages)


@pytest.mark.parametrize(
    'model', [RLAResNet(50, base_channels=8, rla_channels=0), DenseNetBC(depth=22)]
)
def test_networks_without_a_hidden_state(model: nn.Module) -> None:
    with pytest.raises(UserError, match='has no hidden state'):
        hidden_state.record(model.eval(), torch.rand(1, 3, 32, 32))
