# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Plain operations for tests that write networks out as the paper does."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def randomise(model: nn.Module) -> None:
    """Draw statistics and biases of norms."""
    for name, values in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(('running_mean', '.bias')):
            nn.init.normal_(values)
        elif name.endswith('running_var'):
            nn.init.uniform_(values, 0.5, 2)


def norm(module: Any, x: Tensor) -> Tensor:
    """A batch norm in eval mode."""
    statistics = module.running_mean, module.running_var
    return F.batch_norm(x, *statistics, module.weight, module.bias)


def norms(first: Any, second: Any, x: Tensor) -> Tensor:
    """A batch norm of concat(x, h) in eval mode, from the norms of x and of h."""
    a, b = x.split((first.num_features, second.num_features), dim=1)
    return torch.cat((norm(first, a), norm(second, b)), dim=1)


def recurrence(unit: Any, t: int, y: Tensor, h: Tensor, stride: int) -> Tensor:
    """Eq. 11 after pooling h, for maps of even size."""
    h = F.avg_pool2d(h, stride) if stride > 1 else h
    total = h + F.conv2d(y, unit.compress_of(t).weight)
    c3 = unit.recurrent_of(t)
    return c3(torch.tanh(norm(unit.norms[t], total)))
