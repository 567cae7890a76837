# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""C1 that keeps the norm's input instead of its output: the same numbers."""

from copy import deepcopy
from typing import Any, List

import pytest
import torch
from torch import Tensor, nn

from mmrla.models.compress import norm_and_compress, scale_and_compress
from mmrla.models.layers import ECALayer


def _norm(**kwargs: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(6, **kwargs).double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _run(norm: nn.Module, compress: nn.Module, u: Tensor, watch: bool) -> List[Any]:
    """Outputs, gradients and statistics; the usual way for a conv with hooks."""
    norm, compress = deepcopy(norm), deepcopy(compress)
    if watch:
        compress.register_forward_hook(lambda *args: None)
    u = u.clone().requires_grad_()
    y, update, kept = norm_and_compress(norm, compress, u)
    assert kept == watch
    (y.square().sum() + update.pow(3).sum()).backward()
    grads = [p.grad for p in (u, *norm.parameters(), *compress.parameters())]
    return [y, update, *grads, *norm.buffers()]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_equals_norm_then_conv(training: bool, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm = _norm().train(training)
    compress = nn.Conv2d(6, 3, 1, bias=False).double()
    # Means that are large beside the deviations.
    u = torch.randn(2, 6, 5, 7).double() + 10 * torch.randn(6, 1, 1)
    u = u.contiguous(memory_format=layout)
    usual, ours = (_run(norm, compress, u, watch) for watch in (True, False))
    assert len(usual) == len(ours) == 9
    for a, b in zip(usual, ours):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


def test_the_norms_output_is_not_kept() -> None:
    u = torch.randn(2, 6, 5, 7, dtype=torch.double, requires_grad=True)
    compress = nn.Conv2d(6, 3, 1, bias=False).double()
    maps = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.shape == u.shape:
            maps.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        norm_and_compress(_norm(), compress, u)
    assert maps == {u.data_ptr()}


@pytest.mark.parametrize(
    ('norm', 'compress'),
    [
        (nn.GroupNorm(2, 6), nn.Conv2d(6, 3, 1, bias=False)),
        (nn.BatchNorm2d(6, affine=False), nn.Conv2d(6, 3, 1, bias=False)),
        (
            nn.BatchNorm2d(6, momentum=None),  # type: ignore[arg-type]
            nn.Conv2d(6, 3, 1, bias=False),
        ),
        (
            nn.BatchNorm2d(6, track_running_stats=False),
            nn.Conv2d(6, 3, 1, bias=False),
        ),
        (nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)),
        (nn.BatchNorm2d(6), nn.Sequential(nn.Conv2d(6, 3, 1, bias=False))),
    ],
)
def test_other_modules_are_called(norm: nn.Module, compress: nn.Module) -> None:
    u = torch.randn(2, 6, 5, 7, requires_grad=True)
    y, update, kept = norm_and_compress(norm, compress, u)
    assert kept
    torch.testing.assert_close(update, compress(y))


def test_frozen_parts_get_no_gradient() -> None:
    norm, compress = _norm(), nn.Conv2d(6, 3, 1, bias=False).double()
    norm.requires_grad_(False)
    compress.requires_grad_(False)
    u = torch.randn(2, 6, 5, 7, dtype=torch.double, requires_grad=True)
    y, update, _ = norm_and_compress(norm.eval(), compress, u)
    (y.sum() + update.sum()).backward()
    assert u.grad is not None
    assert compress.weight.grad is norm.weight.grad is None


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_equals_attention_then_conv(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    results = []
    for watch in (True, False):
        torch.manual_seed(0)
        attention = ECALayer(6).double()
        compress = nn.Conv2d(6, 3, 1, bias=False).double()
        if watch:
            compress.register_forward_hook(lambda *args: None)
        n = torch.randn(2, 6, 5, 7, dtype=torch.double)
        n = n.contiguous(memory_format=layout).requires_grad_()
        y, update, kept = scale_and_compress(attention, compress, n)
        assert kept == watch
        (y.square().sum() + update.pow(3).sum()).backward()
        grads = [p.grad for p in (n, attention.conv.weight, compress.weight)]
        results.append([y, update, *grads])
    for a, b in zip(*results):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('used', ['y', 'update'])
@pytest.mark.parametrize('scaled', [False, True])
def test_one_output_may_be_left_unread(used: str, scaled: bool) -> None:
    results = []
    for watch in (True, False):
        torch.manual_seed(0)
        norm, attention = _norm(), ECALayer(6).double()
        compress = nn.Conv2d(6, 3, 1, bias=False).double()
        if watch:
            compress.register_forward_hook(lambda *args: None)
        u = torch.randn(2, 6, 5, 7, dtype=torch.double, requires_grad=True)
        if scaled:
            y, update, _ = scale_and_compress(attention, compress, u)
        else:
            y, update, _ = norm_and_compress(norm, compress, u)
        # Twice, as for the addition's two terms.
        total = y + y if used == 'y' else update
        total.square().sum().backward()
        results.append(u.grad)
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
