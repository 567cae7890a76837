# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The end of a residual branch by products with its input: the same numbers."""

import warnings
from copy import deepcopy
from typing import Any, Callable, List, Optional, Tuple

import pytest
import torch
from mmrla.models.conv_norm import end_of_branch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from mmrla.models.layers import ECALayer, SELayer

#: Conv, norm, attention and C1.
Parts = Tuple[nn.Module, nn.Module, nn.Module, nn.Module]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def _conv(in_channels: int, out_channels: int, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, **{'bias': False, **kwargs})


def _each(function: Callable[[nn.Module], nn.Module], parts: Parts) -> Parts:
    conv, norm, attention, compress = map(function, parts)
    return conv, norm, attention, compress


def _end(
    attention: Optional[nn.Module] = None,
    training: bool = True,
    dtype: torch.dtype = torch.double,
    channels: int = 3,
) -> Parts:
    """What ends a branch, with numbers as in the midst of a training."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4 * channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    parts = (
        _conv(channels, 4 * channels),
        norm,
        attention or nn.Identity(),
        _conv(4 * channels, 2),
    )
    return _each(lambda part: part.to(dtype).train(training), parts)


def _images(
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.double,
    channels: int = 3,
    mean: float = 2,
) -> Tensor:
    """As after a ReLU: means that are large beside the deviations."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, channels, 9, 11, generator=generator, dtype=torch.double)
    return torch.relu(z + mean).to(dtype).contiguous(memory_format=layout)


def _run(
    parts: Parts,
    z: Tensor,
    watch: bool = False,
    loss: Optional[Callable[[Tensor, Tensor], Tensor]] = None,
) -> List[Any]:
    """Outputs, gradients and statistics; the usual way for a conv with hooks."""
    parts = deepcopy(parts)
    if watch:
        parts[0].register_forward_hook(lambda *args: None)
    z = z.clone(memory_format=torch.preserve_format).requires_grad_()
    y, update, kept = end_of_branch(*parts, z)
    assert update is not None
    assert kept == watch
    (loss(y, update) if loss else y.square().sum() + update.pow(3).sum()).backward()
    grads = [p.grad for part in parts for p in part.parameters()]
    return [y, update, z.grad, *grads, *parts[1].buffers()]


def _assert_equal(ours: List[Any], usual: List[Any]) -> None:
    assert len(ours) == len(usual)
    for a, b in zip(ours, usual):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('attention', [None, ECALayer, SELayer])
def test_equals_the_modules(
    training: bool, layout: torch.memory_format, attention: Any
) -> None:
    parts = _end(attention and attention(12), training)
    ours, usual = (_run(parts, _images(layout), watch) for watch in (False, True))
    _assert_equal(ours, usual)
    for a in ours[:3]:
        assert a.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('mean', 'limit'), [(0, 8), (2, 8), (10, 20)])
def test_single_precision_is_nearly_as_exact_as_the_modules(
    layout: torch.memory_format, mean: float, limit: float
) -> None:
    """Products lose more than centred values where means are far from zero."""

    def run(dtype: torch.dtype, watch: bool) -> List[Tensor]:
        z = _images(layout, torch.float, 6, mean).to(dtype)
        parts = _end(dtype=torch.float, channels=6)
        found = _run(_each(lambda part: part.to(dtype), parts), z, watch)
        return found[:-1]  # no counter

    exact = run(torch.double, True)
    for ours, usual, truth in zip(
        run(torch.float, False), run(torch.float, True), exact
    ):
        errors = [float((x - truth).norm() / truth.norm()) for x in (ours, usual)]
        assert errors[0] < max(limit * errors[1], 1e-6)


@pytest.mark.parametrize('training', [True, False])
def test_without_c1_too(training: bool) -> None:
    results = []
    for watch in (False, True):
        conv, norm, attention, _ = _end(training=training)
        if watch:
            norm.register_forward_hook(lambda *args: None)
        z = _images().requires_grad_()
        y, update, kept = end_of_branch(conv, norm, attention, None, z)
        assert update is None
        assert not kept
        y.pow(3).sum().backward()
        parameters = [*conv.parameters(), *norm.parameters()]
        results.append([y, z.grad, *(p.grad for p in parameters), *norm.buffers()])
    _assert_equal(*results)


def test_gradients_have_gradients() -> None:
    parts = _end()

    def function(z: Tensor) -> Any:
        return end_of_branch(*deepcopy(parts), z)[:2]

    z = _images()[:1, :, :6].requires_grad_()
    assert torch.autograd.gradcheck(function, z)
    assert torch.autograd.gradgradcheck(function, z)


def test_only_what_the_conv_reads_is_kept() -> None:
    parts, z = _end(), _images().requires_grad_()
    maps = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and tensor.shape[2:] == z.shape[2:]:
            maps.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        end_of_branch(*parts, z)
    assert maps == {z.data_ptr()}


class Twice(nn.Identity):
    """No identity, for all its name."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class PlusInput(SELayer):
    """Attention that does more than to scale."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def _own_forward(conv: nn.Module) -> nn.Module:
    forward = conv.forward
    conv.forward = lambda x: 2 * forward(x)
    return conv


def _frozen_statistics(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.track_running_stats = False
    return norm


@pytest.mark.parametrize(
    ('place', 'part'),
    [
        (0, _conv(3, 12, bias=True)),
        (0, nn.Conv2d(3, 12, 3, padding=1, bias=False)),
        (0, nn.Conv2d(3, 12, 1, stride=2, bias=False)),
        (0, _own_forward(_conv(3, 12))),
        (1, nn.GroupNorm(2, 12)),
        (1, _frozen_statistics(nn.BatchNorm2d(12))),
        (1, nn.BatchNorm2d(12, affine=False)),
        (1, nn.BatchNorm2d(12, momentum=None)),  # type: ignore[arg-type]
        (1, nn.BatchNorm2d(12, track_running_stats=False)),
        (2, nn.ReLU()),
        (2, Twice()),
        (2, PlusInput(12, ratio=4)),
        (3, _conv(12, 2, bias=True)),
        (3, nn.Sequential(_conv(12, 2))),
    ],
)
def test_other_modules_are_called(place: int, part: nn.Module) -> None:
    parts = list(_end(dtype=torch.float))
    parts[place] = part
    conv, norm, attention, compress = parts
    z = _images(dtype=torch.float).requires_grad_()
    y, update, kept = end_of_branch(conv, norm, attention, compress, z)
    assert kept
    torch.testing.assert_close(y, attention(norm(conv(z))))
    torch.testing.assert_close(update, compress(y))


@pytest.mark.parametrize('place', [0, 1, 2, 3])
@pytest.mark.parametrize(
    'hook',
    [
        'forward_hook',
        'forward_pre_hook',
        'full_backward_hook',
        'full_backward_pre_hook',
    ],
)
@pytest.mark.parametrize('of_all', [False, True])
def test_hooks_are_called(place: int, hook: str, of_all: bool) -> None:
    parts, z = _end(SELayer(12, ratio=4)), _images().requires_grad_()
    called = []

    def watch(module: nn.Module, *args: Any) -> None:
        if module is parts[place]:
            called.append(module)

    if of_all:
        handle = getattr(torch_module, f'register_module_{hook}')(watch)
    else:
        handle = getattr(parts[place], f'register_{hook}')(watch)
    try:
        y, update, _ = end_of_branch(*parts, z)
        assert update is not None
        (y.sum() + update.sum()).backward()
    finally:
        handle.remove()
    assert len(called) == 1


def test_transforms_of_functions() -> None:
    parts, z = _end(training=False), _images()[:1, :, :6, :6]

    def loss(x: Tensor) -> Any:
        y, update, _ = end_of_branch(*parts, x)
        assert update is not None
        return y.square().sum() + update.pow(3).sum()

    x = z.clone().requires_grad_()
    loss(x).backward()
    assert x.grad is not None
    torch.testing.assert_close(torch.func.grad(loss)(z), x.grad)
    for how in (dict(vectorize=True), dict(vectorize=True, strategy='forward-mode')):
        found = torch.autograd.functional.jacobian(loss, z, **how)
        torch.testing.assert_close(found, x.grad)


def test_autocast_of_the_backward_pass_alone_changes_nothing() -> None:
    grads = []
    for enabled in (False, True):
        parts, z = _end(dtype=torch.float), _images(dtype=torch.float).requires_grad_()
        y, update, _ = end_of_branch(*parts, z)
        assert update is not None
        loss = y.pow(3).sum()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            grads.append(torch.autograd.grad(loss, (z, parts[0].weight)))
    for a, b in zip(*grads):
        assert torch.equal(a, b)


@pytest.mark.parametrize('attention', [None, ECALayer])
def test_traces_do_not_ask_for_shapes(attention: Any) -> None:
    parts, z = _end(attention and attention(12), False), _images().requires_grad_()
    for part in parts:
        part.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter('error', torch.jit.TracerWarning)
        graph = torch.jit.trace(lambda x: end_of_branch(*parts, x)[:2], (z,))
    small = z[:, :, :1, :2]
    for a, b in zip(graph(small), end_of_branch(*parts, small)):
        torch.testing.assert_close(a, b)


def test_few_pixels_take_the_modules() -> None:
    parts = _end(channels=6)
    z = _images(channels=6)[..., :4].requires_grad_()  # 72 of them
    assert end_of_branch(*parts, z)[2]
    assert not end_of_branch(*parts, torch.cat([z] * 8))[2]


def test_frozen_parts_get_no_gradient() -> None:
    parts = _end(training=False)
    for part in parts:
        part.requires_grad_(False)
    z = _images().requires_grad_()
    y, update, _ = end_of_branch(*parts, z)
    assert update is not None
    (y.sum() + update.sum()).backward()
    assert z.grad is not None
    assert all(p.grad is None for part in parts for p in part.parameters())


@pytest.mark.parametrize('used', ['y', 'update'])
@pytest.mark.parametrize('attention', [None, ECALayer])
def test_one_output_may_be_left_unread(used: str, attention: Any) -> None:
    def loss(y: Tensor, update: Tensor) -> Tensor:
        # y twice, as by the addition and by hooks.
        return (y + y if used == 'y' else update).square().sum()

    results = []
    for watch in (False, True):
        found = _run(_end(attention and attention(12)), _images(), watch, loss)
        results.append([torch.zeros(()) if x is None else x for x in found])
    ours, usual = results
    for a, b in zip(ours, usual):
        torch.testing.assert_close(a, b.expand_as(a), rtol=1e-9, atol=1e-9)


def test_the_branch_may_be_overwritten() -> None:
    parts, z = _end(), _images()
    results = []
    for in_place in (False, True):
        copies, x = deepcopy(parts), z.clone().requires_grad_()
        y, update, _ = end_of_branch(*copies, x)
        assert update is not None
        out = y.add_(1) if in_place else y + 1
        (out.relu().square().sum() + update.sum()).backward()
        results.append(x.grad)
    torch.testing.assert_close(*results)
