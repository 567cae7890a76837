# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Half precision, channels last, recomputation and compilation, for every family."""

from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from .conftest import COVERING, FAMILIES, FAST, Case, each, settled

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
#: torch has no float16 convolutions on the CPU.
HALF = [torch.bfloat16] if DEVICE == 'cpu' else [torch.bfloat16, torch.float16]


def build(case: Case, **kwargs: Any) -> nn.Module:
    """The network with its hidden state, if it has one."""
    if case.rla_channels:
        kwargs['return_hidden'] = True
    return settled(case, **kwargs)


def images() -> Tensor:
    """Two images, (2, 3, 64, 64)."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def step(model: Any, x: Tensor) -> Tuple[Tuple[Tensor, ...], Tensor, Dict[str, Tensor]]:
    """Outputs, loss and gradients of a training step."""
    outs = model(x)
    loss = torch.stack([out.float().square().mean() for out in outs]).sum()
    loss.backward()
    return (
        outs,
        loss,
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
    )


def relative(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors, relative to the second."""
    return ((a.float() - b).norm() / b.norm()).item()


@each(FAMILIES, COVERING)
@pytest.mark.parametrize('dtype', HALF)
def test_a_step_in_half_precision_is_near_that_in_float32(
    case: Case, dtype: torch.dtype
) -> None:
    model = build(case).to(DEVICE)
    x = images().to(DEVICE)
    expected, expected_loss, grads = step(model, x)
    grads = {n: g.clone() for n, g in grads.items()}
    model.zero_grad()
    with torch.autocast(DEVICE, dtype=dtype):
        outs, loss, half = step(model, x)
    assert all(out.dtype == dtype for out in outs)  # the hidden state is the last
    assert max(relative(a, b) for a, b in zip(outs, expected)) < 0.15
    assert relative(loss, expected_loss) < 0.03
    assert all(grad.isfinite().all() for grad in half.values())
    assert all(grad.dtype == torch.float32 for grad in half.values())
    # Single gradients are rounded away; the direction of the step must not be.
    a = torch.cat([half[name].flatten() for name in grads])
    b = torch.cat([grads[name].flatten() for name in grads])
    assert torch.cosine_similarity(a, b, dim=0) > 0.85


@each(FAMILIES, COVERING)
def test_channels_last_stays_through_the_network(case: Case) -> None:
    if case.name == 'resnest':
        pytest.skip('its own attention returns contiguous maps')
    model = build(case)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    copied: List[str] = []

    def is_kept(name: str) -> Any:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if tensor.stride(1) != 1:  # also right for a slice of channels
                    copied.append(f'{name} {tuple(tensor.shape)}')

        return check

    for name, module in model.named_modules():
        # h_0 has no layout: most often one value for each image and channel.
        if not name.startswith(('rla.0.read.0', 'rla.0.pool')):
            module.register_forward_hook(is_kept(name))
    x = images()
    outs = model(x.contiguous(memory_format=torch.channels_last))
    assert not copied
    expected = build(case)(x)
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The maps (N, C, H, W) in what a module returns."""
    if isinstance(output, Tensor):
        if output.dim() == 4:
            yield output
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from _tensors(item)


@each(FAMILIES)
def test_recomputation_changes_no_gradient_in_training(case: Case) -> None:
    """With norms that use the batch's statistics, as classifiers do."""
    grads = []
    for with_cp in (False, True):
        model = build(case, with_cp=with_cp).train()
        grads.append(step(model, images())[2])
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


can_compile = pytest.mark.skipif(
    not torch._dynamo.is_dynamo_supported(), reason='no torch.compile'
)


def assert_compiled_equals_eager(case: Case, **kwargs: Any) -> None:
    """A training step, compiled as one graph."""
    torch._dynamo.reset()
    model = build(case)
    expected = step(model, images())
    grads = {n: g.clone() for n, g in expected[2].items()}
    model.zero_grad()
    outs, _, _ = step(torch.compile(model, fullgraph=True, **kwargs), images())
    for a, b in zip(outs, expected[0]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for name, param in model.named_parameters():
        assert param.grad is not None
        distance = (param.grad - grads[name]).norm()
        assert distance <= 1e-3 * grads[name].norm(), name  # zero where that is


@can_compile
@each(FAMILIES, fast=('resnet-v1', 'preact-v1', 'densenet-lag'))
def test_compiled_as_one_graph(case: Case) -> None:
    """Without what inductor makes of it, which takes minutes a network."""
    assert_compiled_equals_eager(case, backend='eager')


# Not Xception and pre-activated bottlenecks: what inductor makes of a strided 1x1 conv
# beside a pooled branch corrupts the heap in the backward pass, in a network of torch's
# own modules too.
_CRASHING = ('xception-v1', 'preact-v1')
INDUCTOR = [
    case
    for case in FAMILIES
    if case.name == 'preact-basic' or (case.name in FAST and case.name not in _CRASHING)
]


@can_compile
@pytest.mark.timeout(1800)
@each(INDUCTOR, fast=())
def test_what_inductor_generates(case: Case) -> None:
    """The code that ``compile=True`` of a config runs, one network of each family."""
    assert_compiled_equals_eager(case)
