# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks on a GPU against the CPU.

MMRLA_CUDA_TESTS=cpu runs the tests on the CPU, to see that they work.
"""

import copy
import os
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmrla.models.fused import switch_to_deploy, switch_to_fused_training

from .backbones.conftest import FAMILIES, FAST, Case, each, settled

DEVICE = os.environ.get('MMRLA_CUDA_TESTS', 'cuda')
pytestmark = pytest.mark.skipif(
    DEVICE == 'cuda' and not torch.cuda.is_available(), reason='needs a GPU'
)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)


def _step(model: Any, x: Tensor) -> Tuple[List[Tensor], Dict[str, Tensor]]:
    """Outputs and gradients of a step, copied to the CPU in float64."""
    outs = model(x)
    torch.stack([out.square().mean() for out in outs]).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    double: Any = dict(device='cpu', dtype=torch.float64)
    return (
        [out.detach().to(**double) for out in outs],
        {n: g.to(**double) for n, g in grads.items()},
    )


def _assert_near(a: Any, b: Any) -> None:
    """Compare each output, but all gradients at once: single ones may nearly vanish."""
    for one, other in zip(a[0], b[0]):
        assert (one - other).norm() < 1e-3 * other.norm()
    assert a[1].keys() == b[1].keys()
    one, other = (torch.cat([g.flatten() for g in s[1].values()]) for s in (a, b))
    assert (one - other).norm() < 1e-2 * other.norm()


@each(FAMILIES, fast=['resnet-v1', 'resnet-v3', 'mobilenet'])
def test_a_step_equals_the_cpus(case: Case) -> None:
    model = settled(case).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = _step(copy.deepcopy(model).double(), x.double())
    _assert_near(_step(model.to(DEVICE), x.to(DEVICE)), expected)


@each([c for c in FAMILIES if c.name in ('resnet-v1', 'resnet-v3', 'mobilenet')])
def test_fused_and_deployed_forms(case: Case) -> None:
    """Fused in training mode, deployed in eval mode."""
    model = settled(case).to(DEVICE)
    x = torch.randn(8, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    x = x.to(DEVICE)
    fused = copy.deepcopy(model)
    assert switch_to_fused_training(fused) == 1
    with torch.no_grad():
        for a, b in zip(switch_to_deploy(model)(x), copy.deepcopy(model).eval()(x)):
            assert (a - b).norm() < 1e-3 * b.norm()
    _assert_near(_step(fused, x), _step(model, x))


def test_operators_of_mmcv() -> None:
    ops = pytest.importorskip('mmcv.ops')
    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 50
    boxes, scores = torch.cat((corners, corners + 20), 1), torch.rand(200)
    x, rois = torch.randn(1, 8, 32, 32), torch.cat((torch.zeros(200, 1), boxes), 1)
    align = ops.RoIAlign(7, spatial_scale=0.5)
    deform = ops.DeformConv2dPack(8, 8, 3, padding=1)
    nn.init.normal_(deform.conv_offset.weight, std=0.1)
    found = []
    for device in ('cpu', DEVICE):
        at = deform.to(device), x.to(device), rois.to(device)
        with torch.no_grad():
            _, kept = ops.nms(boxes.to(device), scores.to(device), 0.5)
            found.append((kept, align(*at[1:]), at[0](at[1])))
    assert torch.equal(found[0][0], found[1][0].cpu())
    for a, b in zip(found[0][1:], found[1][1:]):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope='module')
def process_group() -> Iterator[None]:
    backend = 'nccl' if DEVICE == 'cuda' else 'gloo'
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures('process_group')
@each([case for case in FAMILIES if case.name in FAST], fast=['resnet-v1'])
def test_distributed_data_parallel(case: Case) -> None:
    model = settled(case).eval().to(DEVICE)
    x = torch.randn(2, 3, 64, 64).to(DEVICE)
    expected = _step(copy.deepcopy(model), x)
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    outs, grads = _step(wrapped, x)
    grads = {name[len('module.') :]: grad for name, grad in grads.items()}
    _assert_near((outs, grads), expected)
