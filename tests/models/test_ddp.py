# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Distributed data parallel: gradients and unused parameters."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .backbones.conftest import FAMILIES, FAST, Case, each, settled

REPO = Path(__file__).resolve().parents[2]
UNUSED = 'Expected to have finished reduction in the prior iteration'


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Each process has half of the images; float64, norms in eval mode.

    In training mode norms would need SyncBatchNorm, which needs a GPU.
    """
    cases = [case for case in FAMILIES if case.name in FAST]
    states, batches, expected = [], [], []
    for case in cases:
        model = settled(case).double().eval()
        images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
        torch.stack([out.square().mean() for out in model(images)]).sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        expected.append(grads)
        states.append(model.state_dict())
        batches.append(images)
    cfgs = [
        dict(out_indices=(case.last,), type=case.type, **case.kwargs) for case in cases
    ]
    path = tmp_path / 'networks'
    torch.save(dict(cfgs=cfgs, states=states, batches=batches), path)

    worker = Path(__file__).with_name('ddp_worker.py')
    command = [sys.executable, REPO / 'tools/dist_run.py', '2', worker, path]
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        found = torch.load(f'{path}.{rank}', weights_only=True)
        for case, one, two in zip(cases, expected, found):
            assert one.keys() == two.keys()
            for name, grad in one.items():
                distance = (two[name] - grad).norm()
                assert distance <= 1e-6 * grad.norm(), (case.name, name)
            assert sum(grad.norm() > 0 for grad in one.values()) > len(one) / 2


@pytest.fixture(scope='module')
def process_group() -> Iterator[None]:
    """A group of one process, in which DDP finds unused parameters too."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def two_steps(model: nn.Module) -> None:
    """Run two steps; the second fails if the first left a parameter unused."""
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    for _ in range(2):
        outs = wrapped(torch.randn(2, 3, 32, 32))
        torch.stack([out.mean() for out in outs]).sum().backward()


class _Idle(nn.Module):
    """A network with an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return [self.used(x)]


@pytest.mark.usefixtures('process_group')
def test_an_unused_parameter_is_found() -> None:
    """The tests below rely on it."""
    with pytest.raises(RuntimeError, match=UNUSED):
        two_steps(_Idle())


@pytest.mark.usefixtures('process_group')
@each(FAMILIES, fast=['resnet-v3'])
def test_no_parameter_is_unused(case: Case) -> None:
    two_steps(case.build())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures('process_group')
@each([case for case in FAMILIES if case.name in FAST])
def test_no_parameter_is_unused_whatever_is_frozen_and_returned(case: Case) -> None:
    last = max(case.stages, case.last + 1)
    subsets = [
        indices
        for size in range(1, last + 1)
        for indices in itertools.combinations(range(last), size)
    ]
    if len(subsets) > 16:  # MobileNetV2
        subsets = [(last - 1,), (1, 2, 4, 6), (0, last - 1), tuple(range(last))]
    is_rla = 'RLA' in case.type
    is_own = case.type in ('RLAPreActResNet', 'RLAXception', 'DenseNetBC')
    for indices, frozen_stages in itertools.product(subsets, (-1, 0, 1, 2)):
        kwargs: Any = dict(norm_eval=True, frozen_stages=frozen_stages)
        model = case.build(out_indices=indices, **(kwargs if is_rla else {}))
        outs = model(torch.randn(2, 3, 32, 32))
        torch.stack([out.mean() for out in outs]).sum().backward()
        unused = [
            name
            for name, p in model.named_parameters()
            if p.requires_grad and p.grad is None
        ]
        # Upstream builds layers that nothing reads: later stages, conv2.
        assert not [name for name in unused if is_own or name.startswith('rla.')]
        if not unused:
            model.zero_grad()
            two_steps(model)
