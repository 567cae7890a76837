# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The recurrence against its equations, written out with plain operations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrla.models import RLAResNet, RLAUnit


def _unit(**kwargs: Any) -> RLAUnit:
    torch.manual_seed(1)
    unit = RLAUnit(None, [6, 6, 6], 3, **kwargs).eval()
    for norm in unit.norms:
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return unit


def _norm(unit: RLAUnit, t: int, x: Tensor) -> Tensor:
    n = unit.norms[t]
    return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias)


def _state(unit: RLAUnit, zero: bool) -> Tensor:
    """A state (2, C, 5, 7), or zeros (2, C, 1, 1) for h_0."""
    channels = unit.state_channels
    if zero:
        return torch.zeros(2, channels, 1, 1)
    return torch.randn(2, channels, 5, 7, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize('integration', ['v1', 'v2', 'v3', 'v4', 'v5', 'v6'])
@pytest.mark.parametrize('zero', [False, True])
def test_integrations(integration: str, zero: bool) -> None:
    unit, source = _unit(integration=integration), torch.randn(2, 6, 5, 7)
    h = _state(unit, zero)
    full = h.expand(2, 3, 5, 7)
    c1, c3 = unit.compress[0].weight, unit.recurrent[0].weight
    summary = F.conv2d(source, c1)
    if integration in ('v1', 'v3', 'v5'):
        expected = F.conv2d(torch.tanh(_norm(unit, 1, full + summary)), c3, padding=1)
    else:
        expected = F.conv2d(torch.tanh(_norm(unit, 1, full)), c3, padding=1) + summary
    torch.testing.assert_close(unit(1, source, h), expected)


@pytest.mark.parametrize('zero', [False, True])
def test_post_activation(zero: bool) -> None:
    unit, source = _unit(cell='post-act'), torch.randn(2, 6, 5, 7)
    h = _state(unit, zero)
    total = h + F.conv2d(source, unit.compress[0].weight)
    conv = F.conv2d(total, unit.recurrent[0].weight, padding=1)
    expected = torch.tanh(_norm(unit, 1, conv))
    torch.testing.assert_close(unit(1, source, h), expected)


@pytest.mark.parametrize('zero', [False, True])
def test_convlstm(zero: bool) -> None:
    unit, source = _unit(cell='convlstm'), torch.randn(2, 6, 5, 7)
    state = _state(unit, zero)
    h, c = state.expand(2, 6, 5, 7).split(3, 1)
    x = torch.tanh(_norm(unit, 1, F.conv2d(source, unit.compress[0].weight)))
    gates = F.conv2d(torch.cat((x, h), 1), unit.recurrent[0].gates.weight, padding=1)
    i, f, o = torch.sigmoid(gates[:, :9]).split(3, 1)
    c_next = f * c + i * torch.tanh(gates[:, 9:])
    got = unit(1, source, state)
    torch.testing.assert_close(got[:, 3:], c_next)
    torch.testing.assert_close(unit.hidden(got), o * torch.tanh(c_next))


@pytest.mark.parametrize('zero', [False, True])
def test_convgru(zero: bool) -> None:
    unit, source = _unit(cell='convgru'), torch.randn(2, 6, 5, 7)
    cell, state = unit.recurrent[0], _state(unit, zero)
    h = state.expand(2, 3, 5, 7)
    x = torch.tanh(_norm(unit, 1, F.conv2d(source, unit.compress[0].weight)))
    gates = F.conv2d(torch.cat((x, h), 1), cell.gates.weight, cell.gates.bias, 1, 1)
    r = torch.sigmoid(cell.reset_norm(gates[:, :3]))
    u = torch.sigmoid(cell.update_norm(gates[:, 3:]))
    candidate = cell.candidate_norm(cell.candidate(torch.cat((x, r * h), 1)))
    expected = u * h + (1 - u) * torch.tanh(candidate)
    torch.testing.assert_close(unit(1, source, state), expected)


def test_state_is_pooled_before_the_first_update_only() -> None:
    unit, source = _unit(stride=2), torch.randn(2, 6, 5, 7)
    h = torch.randn(2, 3, 9, 13)  # odd: the pooling rounds up, as strided convs do
    pooled = F.avg_pool2d(h, 2, 2, ceil_mode=True, count_include_pad=False)
    total = pooled + F.conv2d(source, unit.compress[0].weight)
    c3 = unit.recurrent[0].weight
    expected = F.conv2d(torch.tanh(_norm(unit, 0, total)), c3, padding=1)
    torch.testing.assert_close(unit(0, source, h), expected)


def test_sharing() -> None:
    shared, unshared = _unit(), _unit(shared=False)
    assert (len(shared.compress), len(shared.recurrent), len(shared.norms)) == (1, 1, 3)
    assert (len(unshared.compress), len(unshared.recurrent)) == (3, 3)
    widths = RLAUnit(None, [4, 4, 8, 8], 3)
    assert [conv.in_channels for conv in widths.compress] == [4, 8]


def test_unused_update_is_not_built() -> None:
    unit = RLAUnit(None, [6, 6, 8], 3, num_updates=2)
    assert (len(unit.compress), len(unit.norms)) == (1, 2)
    h = torch.randn(2, 3, 5, 7)
    assert unit(2, torch.randn(2, 8, 5, 7), h) is h


@pytest.mark.parametrize('integration', ['v1', 'v3', 'v5'])
def test_a_step_is_the_papers(integration: str) -> None:
    """Two blocks of a ResNet with convs of concat(x, h).

    v1 reads the residual itself; in the released code the addition of the identity
    overwrites it.
    """
    torch.manual_seed(0)
    kwargs: Any = dict(depth=50, base_channels=8, rla_channels=4)
    model = RLAResNet(integration=integration, **kwargs).eval()
    x = model.forward_stem(torch.randn(2, 3, 48, 64))
    unit = model.rla[0]
    got, state = x, model.zero_state(x)
    h = x.new_zeros(2, 4, *x.shape[2:])
    with torch.no_grad():
        for t in (0, 1):
            block = model.layer1[t]
            weight = torch.cat((block.conv1.weight, unit.read[t].weight), dim=1)
            y = block.relu(block.norm1(F.conv2d(torch.cat((x, h), 1), weight)))
            y = block.relu(block.norm2(block.conv2(y)))
            y = block.norm3(block.conv3(y))
            identity = block.downsample(x) if block.downsample else x
            x = F.relu(y + identity)
            source = dict(v1=y, v3=x, v5=identity)[integration]
            h = unit(t, source, h)
            got, state = model.step(0, t, got, state)
    torch.testing.assert_close(got, x)
    torch.testing.assert_close(state, h)
