# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Half precision, channels_last, recomputation and compilation of every family."""

from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from .conftest import COVERING, FAMILIES, FAST, Case, each, settled

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
#: On the CPU torch has no float16 convs.
HALF = [torch.bfloat16] if DEVICE == 'cpu' else [torch.bfloat16, torch.float16]


def build(case: Case, **kwargs: Any) -> nn.Module:
    """The network, with the hidden state among its outputs if it has one."""
    if case.rla_channels:
        kwargs['return_hidden'] = True
    return settled(case, **kwargs)


def images() -> Tensor:
    """Two images, (2, 3, 64, 64)."""
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def step(model: Any, x: Tensor) -> Tuple[Tuple[Tensor, ...], Tensor, Dict[str, Tensor]]:
    """Run a training step: outputs, loss and gradients."""
    outs = model(x)
    loss = torch.stack([out.float().square().mean() for out in outs]).sum()
    loss.backward()
    return (
        outs,
        loss,
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
    )


def relative(a: Tensor, b: Tensor) -> float:
    """The distance of two tensors relative to the norm of the second."""
    return ((a.float() - b).norm() / b.norm()).item()


@each(FAMILIES, COVERING)
@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_is_near_float32(case: Case, dtype: torch.dtype) -> None:
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
    # Rounding may change single gradients, but not the direction of the step.
    a = torch.cat([half[name].flatten() for name in grads])
    b = torch.cat([grads[name].flatten() for name in grads])
    assert torch.cosine_similarity(a, b, dim=0) > 0.85


@each(FAMILIES, COVERING)
def test_channels_last_is_kept(case: Case) -> None:
    model = build(case)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    copied: List[str] = []

    def is_kept(name: str) -> Any:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if tensor.stride(1) != 1:  # holds for slices of channels too
                    copied.append(f'{name} {tuple(tensor.shape)}')

        return check

    for name, module in model.named_modules():
        # h_0, (N, k, 1, 1), has no memory format.
        if not name.startswith(('rla.0.read.0', 'rla.0.pool')):
            module.register_forward_hook(is_kept(name))
    x = images()
    outs = model(x.contiguous(memory_format=torch.channels_last))
    # ResNeSt's own attention returns contiguous maps.
    assert not copied or case.name == 'resnest'
    expected = build(case)(x)
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The maps (N, C, H, W) in a module's output."""
    if isinstance(output, Tensor):
        if output.dim() == 4:
            yield output
    elif isinstance(output, (tuple, list)):
        for item in output:
            yield from _tensors(item)


@each(FAMILIES)
def test_recomputation_changes_no_gradient(case: Case) -> None:
    """With norms in training mode."""
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
    """Compare a training step, compiled as one graph, with the eager one."""
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
        assert distance <= 1e-3 * grads[name].norm(), name


@can_compile
@each(FAMILIES, fast=('resnet-v1', 'preact-v1', 'densenet-lag'))
def test_compiled_as_one_graph(case: Case) -> None:
    """By Dynamo alone; inductor takes minutes per network."""
    assert_compiled_equals_eager(case, backend='eager')


# Without Xception and pre-activated ResNets: inductor's code for a strided 1x1 conv
# beside a pooled branch corrupts the heap in the backward pass, even in a network of
# torch's own modules.
_CRASHING = ('xception-v1', 'preact-v1')
INDUCTOR = [
    case for case in FAMILIES if case.name in FAST and case.name not in _CRASHING
]


@can_compile
@pytest.mark.timeout(1800)
@each(INDUCTOR, fast=())
def test_inductor(case: Case) -> None:
    """The backend of ``compile=True`` in a config, for one network of each family."""
    assert_compiled_equals_eager(case)
