# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Inverted residuals: what is left out or done otherwise gives the same numbers."""

from copy import deepcopy
from typing import Any, List

import pytest
import torch
from torch import Tensor, nn

from mmrla.models.backbones import rla_mobilenet_v2
from mmrla.models.backbones.rla_mobilenet_v2 import InvertedResidual


def _run(block: nn.Module, x: Tensor, watch: str = '') -> List[Any]:
    """Output, gradients, statistics; a module with hooks is called as usual."""
    block = deepcopy(block)
    if watch:
        block.get_submodule(watch).register_forward_hook(lambda *args: None)
    x = x.clone().requires_grad_()
    y, _ = block.branch(x, None)
    y.pow(3).sum().backward()
    return [y, x.grad, *(p.grad for p in block.parameters()), *block.buffers()]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('watch', ['depthwise', 'depthwise.conv', 'project'])
@pytest.mark.parametrize('stride', [1, 2])
def test_the_zero_state_costs_no_map(training: bool, watch: str, stride: int) -> None:
    torch.manual_seed(0)
    block = InvertedResidual(4, 3, 6, stride, 2).double().train(training)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, *list(module.buffers())[:2]):
                nn.init.uniform_(values, 0.5, 2)
    x = torch.randn(2, 4, 9, 11, dtype=torch.double)
    read = []
    handle = block.depthwise.conv.register_forward_pre_hook(
        lambda module, args: read.append(args[0].shape[1])
    )
    usual = _run(block, x, watch)
    handle.remove()
    assert read == [11]  # with zeros for h
    for a, b in zip(_run(block, x), usual):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_no_zeros_are_appended(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = InvertedResidual(4, 3, 6, 1, 2), torch.randn(2, 4, 9, 11)
    monkeypatch.setattr(rla_mobilenet_v2, 'concat_hidden', None)
    block.branch(x, None)
    with pytest.raises(TypeError):
        block.branch(x, torch.randn(2, 3, 9, 11))


@pytest.mark.parametrize('padding_mode', ['circular', 'reflect'])
def test_other_convs_are_called(padding_mode: str) -> None:
    torch.manual_seed(0)
    conv_cfg = dict(type='Conv2d', padding_mode=padding_mode)
    block = InvertedResidual(4, 3, 6, 1, 2, conv_cfg=conv_cfg).eval()
    assert block.depthwise.conv.padding_mode == padding_mode
    x = torch.randn(2, 4, 9, 11)
    y, _ = block.branch(x, None)
    torch.testing.assert_close(y, block.branch(x, torch.zeros(2, 3, 9, 11))[0])


def test_the_expansion_is_by_products() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(4, 0, 6, 1, 6).double()
    x = torch.randn(2, 4, 9, 11, dtype=torch.double)
    for a, b in zip(_run(block, x), _run(block, x, 'expand')):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    y, _ = block.branch(x.requires_grad_(), None)
    names, nodes = set(), [y.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in names:
            names.add(node)
            nodes += [following for following, _ in node.next_functions]
    assert any('ConvNorm' in node.name() for node in names)
