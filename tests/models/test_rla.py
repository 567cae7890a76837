# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The recurrence against its equation, written out with plain operations."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmrla.models.rla import RLAUnit, conv_with_hidden


@pytest.fixture
def maps() -> dict:
    torch.manual_seed(0)
    return {
        name: torch.randn(2, 6, 5, 7) for name in ('residual', 'identity', 'output')
    }


def _unit(**kwargs: Any) -> RLAUnit:
    torch.manual_seed(1)
    unit = RLAUnit([6, 6, 6], 3, **kwargs).eval()
    for norm in unit.norms:
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.normal_(norm.weight)
    return unit


def _norm(unit: RLAUnit, t: int, x: torch.Tensor) -> torch.Tensor:
    n = unit.norms[t]
    return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias)


@pytest.mark.parametrize(
    ('integration', 'source'),
    [
        ('v1', 'residual'),
        ('v2', 'residual'),
        ('v3', 'output'),
        ('v4', 'output'),
        ('v5', 'identity'),
        ('v6', 'identity'),
    ],
)
@pytest.mark.parametrize('zero', [False, True])
def test_integrations(maps: dict, integration: str, source: str, zero: bool) -> None:
    unit = _unit(integration=integration)
    h = torch.randn(2, 3, 5, 7)
    c1, c3 = unit.compress[0].weight, unit.recurrent[0].weight
    summary = F.conv2d(maps[source], c1)
    start = torch.zeros_like(h) if zero else h
    if integration in ('v1', 'v3', 'v5'):
        expected = F.conv2d(torch.tanh(_norm(unit, 1, start + summary)), c3, padding=1)
    else:
        expected = F.conv2d(torch.tanh(_norm(unit, 1, start)), c3, padding=1) + summary
    (got,) = unit(1, **maps, state=None if zero else (h,))
    torch.testing.assert_close(got, expected)


def test_post_activation(maps: dict) -> None:
    unit = _unit(cell='post-act')
    h = torch.randn(2, 3, 5, 7)
    total = h + F.conv2d(maps['residual'], unit.compress[0].weight)
    conv = F.conv2d(total, unit.recurrent[0].weight, padding=1)
    expected = torch.tanh(_norm(unit, 1, conv))
    torch.testing.assert_close(unit(1, **maps, state=(h,))[0], expected)


@pytest.mark.parametrize('zero', [False, True])
def test_convlstm(maps: dict, zero: bool) -> None:
    unit = _unit(cell='convlstm')
    h, c = torch.randn(2, 2, 3, 5, 7)
    if zero:
        h, c = torch.zeros_like(h), torch.zeros_like(c)
    x = torch.tanh(_norm(unit, 1, F.conv2d(maps['residual'], unit.compress[0].weight)))
    gates = F.conv2d(torch.cat((x, h), 1), unit.recurrent[0].gates.weight, padding=1)
    i, f, o = torch.sigmoid(gates[:, :9]).split(3, 1)
    c_next = f * c + i * torch.tanh(gates[:, 9:])
    got = unit(1, **maps, state=None if zero else (h, c))
    torch.testing.assert_close(got[1], c_next)
    torch.testing.assert_close(got[0], o * torch.tanh(c_next))


def test_state_is_pooled_before_the_first_update_only(maps: dict) -> None:
    unit = _unit(stride=2)
    h = torch.randn(2, 3, 9, 13)  # odd: strided convs round up, so does the pooling
    pooled = F.avg_pool2d(h, 2, 2, ceil_mode=True, count_include_pad=False)
    torch.testing.assert_close(
        unit(0, **maps, state=(h,))[0],
        F.conv2d(
            torch.tanh(
                _norm(
                    unit,
                    0,
                    pooled + F.conv2d(maps['residual'], unit.compress[0].weight),
                )
            ),
            unit.recurrent[0].weight,
            padding=1,
        ),
    )


def test_sharing() -> None:
    shared, unshared = _unit(), _unit(shared=False)
    assert (len(shared.compress), len(shared.recurrent), len(shared.norms)) == (1, 1, 3)
    assert (len(unshared.compress), len(unshared.recurrent)) == (3, 3)
    widths = RLAUnit([4, 4, 8, 8], 3)
    assert [conv.in_channels for conv in widths.compress] == [4, 8]


def test_update_that_nothing_reads_is_not_built() -> None:
    unit = RLAUnit([6, 6, 8], 3, num_updates=2)
    assert (len(unit.compress), len(unit.norms)) == (1, 2)


def test_zero_state_equals_zeros() -> None:
    conv = torch.nn.Conv2d(9, 4, 3, padding=1)
    grouped = torch.nn.Conv2d(9, 9, 3, padding=1, groups=9)
    x, zeros = torch.randn(2, 6, 5, 7), torch.zeros(2, 3, 5, 7)
    for layer in (conv, grouped):
        torch.testing.assert_close(
            conv_with_hidden(layer, x, None), layer(torch.cat((x, zeros), 1))
        )


def test_v1_is_the_residual_and_not_the_output() -> None:
    """The released code's in-place addition turned y into x: not here."""
    from mmrla.models import RLAResNet

    torch.manual_seed(0)
    model = RLAResNet(50, base_channels=8, rla_channels=4).eval()
    x = model.forward_stem(torch.randn(1, 3, 32, 32))
    block, unit = model.layer1.blocks[0], model.layer1.rla
    for norm in unit.norms:  # residual branches start at zero without init_weights
        torch.nn.init.normal_(norm.weight)
    y, _, out, _ = block(x)
    with torch.no_grad():
        _, state = model.layer1.step(0, x, None)
        from_residual = unit(0, y, None, out, None)
    torch.testing.assert_close(state[0], from_residual[0])
    assert (y < 0).any()
    assert (out >= 0).all()
