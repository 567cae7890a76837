# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Parameters and FLOPs of a network, in decimal units and in the paper's.

PyTorch's counter sees every operator of a forward pass, functional calls included,
and works on the meta device, where a pass takes no time. This module adds the rule
of the paper's tables:

- multiply-adds of convolutions, linear layers and matrix products,
- 2 for each element that a batch norm writes,
- 1 for each element that an average pooling writes,
- kernel area + 1 for each element that an adaptive average pooling writes (a
  mean over height and width is one, its kernel is the map).

"M" is 2^20 and "G" is 2^30 there.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

import torch
from mmengine.analysis import parameter_count
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..models.rla import RLA

#: The paper's "M" and "G".
PAPER_UNITS = {'M': 2**20, 'G': 2**30}
#: The usual ones.
DECIMAL_UNITS = {'M': 10**6, 'G': 10**9}


@dataclass(frozen=True)
class Cost:
    """What a forward pass, or a part of it, computes.

    Attributes:
        macs: Multiply-adds of convolutions, linear layers, matrix products.
        norm_elements: Elements that batch norms write.
        pool_ops: Operations of average poolings, as the paper counts them.
    """

    macs: int = 0
    norm_elements: int = 0
    pool_ops: int = 0

    @property
    def paper_flops(self) -> int:
        """FLOPs by the rule of the paper's tables."""
        return self.macs + 2 * self.norm_elements + self.pool_ops

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.norm_elements + other.norm_elements,
            self.pool_ops + other.pool_ops,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.macs - other.macs,
            self.norm_elements - other.norm_elements,
            self.pool_ops - other.pool_ops,
        )


@dataclass(frozen=True)
class Complexity:
    """Parameters and cost of a network and of each of its modules.

    Attributes:
        params: Learnable parameters (frozen ones included) by module name, ''
            for all. A module that is used twice counts once.
        costs: Cost by name of the module that ran; '' for all. What a tied
            module computes counts where it is called.
        uncounted: Modules with weights for which no multiply-add was seen.
    """

    params: Dict[str, int]
    costs: Dict[str, Cost]
    uncounted: List[str]

    def of(self, name: str = '') -> Tuple[int, Cost]:
        """Parameters and cost of the module ``name``; zero if there is none."""
        return self.params.get(name, 0), self.costs.get(name, Cost())


def _norm_elements(x: Iterable[int], *args: Any, **kwargs: Any) -> int:
    return prod(x)


def _avg_pool(
    x: Iterable[int], *args: Any, out_shape: Iterable[int] = (), **kwargs: Any
) -> int:
    return prod(out_shape)


def _adaptive_avg_pool(
    x: Tuple[int, ...],
    *args: Any,
    out_shape: Tuple[int, ...] = (),
    **kwargs: Any,
) -> int:
    kernel = (x[-2] // out_shape[-2]) * (x[-1] // out_shape[-1])
    return prod(out_shape) * (kernel + 1)


def _mean(
    x: Tuple[int, ...],
    dims: Optional[Iterable[int]] = None,
    *args: Any,
    out_shape: Tuple[int, ...] = (),
    **kwargs: Any,
) -> int:
    # Only global pooling of a map: other means are not layers.
    if len(x) != 4 or sorted(d % 4 for d in dims or ()) != [2, 3]:
        return 0
    return prod(out_shape) * (x[2] * x[3] + 1)


aten = torch.ops.aten
#: Operators that the paper's rule counts beyond multiply-adds.
_NORMS: Dict[Any, Callable[..., int]] = dict.fromkeys(
    (
        aten.native_batch_norm,
        # Newer versions of torch decompose it into these.
        aten._native_batch_norm_legit,
        aten._native_batch_norm_legit_no_training,
    ),
    _norm_elements,
)
_POOLS: Dict[Any, Callable[..., int]] = {
    aten.avg_pool2d: _avg_pool,
    aten._adaptive_avg_pool2d: _adaptive_avg_pool,
    aten.mean: _mean,
}


class _Recorder:
    """Splits the running totals of a counter among the modules that run."""

    def __init__(self, counter: FlopCounterMode, no_pools_in: Set[str]) -> None:
        self.costs: Dict[str, Cost] = {}
        self._counter = counter
        self._no_pools_in = no_pools_in
        self._seen = Cost()
        # Modules that are running: the name, and those that contain it.
        self._stack: List[Tuple[str, Set[str]]] = [('', {''})]

    def _totals(self) -> Cost:
        counts: Dict[Any, int] = dict(self._counter.get_flop_counts().get('Global', {}))
        norms = sum(counts.pop(op, 0) for op in _NORMS)
        pools = sum(counts.pop(op, 0) for op in _POOLS)
        # The counter counts a multiply-add as two operations.
        return Cost(sum(counts.values()) // 2, norms, pools)

    def flush(self) -> None:
        """Assign the operations since the last call to the running modules."""
        totals = self._totals()
        new, self._seen = totals - self._seen, totals
        if new == Cost():
            return
        names = self._stack[-1][1]
        if names & self._no_pools_in:
            new = Cost(new.macs, new.norm_elements)
        for name in names:
            self.costs[name] = self.costs.get(name, Cost()) + new

    def enter(self, name: str) -> None:
        """The module ``name`` starts."""
        self.flush()
        caller, names = self._stack[-1]
        prefix = f'{caller}.' if caller else ''
        if name.startswith(prefix):
            # Containers in between are never called, nor is mmdet's RoI head.
            parts = name[len(prefix) :].split('.')
            own = {prefix + '.'.join(parts[: i + 1]) for i in range(len(parts))}
        else:
            own = {name}
        self._stack.append((name, names | own))

    def leave(self) -> None:
        """The module that started last ends."""
        self.flush()
        self._stack.pop()


def _attach(model: nn.Module, recorder: _Recorder) -> List[Any]:
    """Hooks that tell the recorder which module runs."""

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: recorder.enter(name)

    handles: List[Any] = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter(name)))
            handles.append(module.register_forward_hook(lambda *_: recorder.leave()))
    return handles


@contextmanager
def _whole_zero_states(model: nn.Module) -> Iterator[None]:
    """Let backbones start from h_0 as a full map.

    A forward pass avoids the map, but the paper's figures count reading it.
    """
    backbones = [m for m in model.modules() if isinstance(m, RLA) and m.rla is not None]

    def whole(channels: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x.new_zeros(x.shape[0], channels, *x.shape[2:])

    for backbone in backbones:
        backbone.__dict__['zero_state'] = whole(backbone.state_channels)
    try:
        yield
    finally:
        for backbone in backbones:
            del backbone.__dict__['zero_state']


def _pools_by_function(model: nn.Module) -> Set[str]:
    """Modules whose poolings are missing from the paper's figures.

    The authors' tool counted modules, and their MobileNetV2s pool by a function
    before the classifier. Without this pooling the four rows of Table 3 agree.
    """
    backbone = type(getattr(model, 'backbone', None)).__name__
    return {'neck'} if backbone in ('MobileNetV2', 'RLAMobileNetV2') else set()


def _uncounted(model: nn.Module, costs: Dict[str, Cost]) -> List[str]:
    """Modules with weights that no counted operator has read."""
    # nn.MultiheadAttention multiplies by its output layer's weight itself.
    exempt = (nn.Embedding, nn.modules.linear.NonDynamicallyQuantizableLinear)
    return [
        name
        for name, module in model.named_modules()
        if not isinstance(module, exempt)
        and any(
            key == 'weight' and param.ndim > 1
            for key, param in module.named_parameters(recurse=False)
        )
        and not costs.get(name, Cost()).macs
    ]


def measure(model: nn.Module, inputs: Tensor, *args: Any, **kwargs: Any) -> Complexity:
    """Count parameters and the cost of one forward pass.

    Args:
        model: The network; its mode is kept, so ``eval()`` it before.
        inputs: Images (1, C, H, W), on the model's device; the meta device does
            if the network does not branch on values.
        *args: Further arguments of the model's forward.
        **kwargs: Further arguments of the model's forward.

    Returns:
        Parameters and cost of the model and of each module.
    """
    counter = FlopCounterMode(display=False, custom_mapping={**_NORMS, **_POOLS})
    recorder = _Recorder(counter, _pools_by_function(model))
    handles = _attach(model, recorder)
    try:
        with torch.no_grad(), _whole_zero_states(model), counter:
            model(inputs, *args, **kwargs)
            recorder.flush()
    finally:
        for handle in handles:
            handle.remove()
    return Complexity(
        dict(parameter_count(model)),
        recorder.costs,
        _uncounted(model, recorder.costs),
    )
