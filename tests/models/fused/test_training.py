# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The fused training form: the numbers of the plain modules, with less memory."""

from copy import deepcopy
from typing import Any, Callable, Dict, List, Optional, Tuple

import pytest
import torch
from mmengine.registry import HOOKS, MODELS
from torch import Tensor, nn

from mmrla.errors import UserError
from mmrla.models import RLAPreActResNet
from mmrla.models.fused import switch_to_fused_training
from mmrla.models.fused.training import conv_norm, conv_norm_compress
from mmrla.models.layers import ECALayer, SELayer

LAYOUTS = [torch.contiguous_format, torch.channels_last]
Parts = Tuple[nn.Module, nn.Module, Optional[nn.Module], nn.Module]


def _parts(
    attention: Optional[nn.Module] = None,
    training: bool = True,
    dtype: torch.dtype = torch.double,
    channels: int = 3,
) -> Parts:
    """The end of a residual branch and C1, with values as during training."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4 * channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    conv = nn.Conv2d(channels, 4 * channels, 1, bias=False)
    compress = nn.Conv2d(4 * channels, 2, 1, bias=False)
    for part in (conv, norm, attention, compress):
        if part is not None:
            part.to(dtype).train(training)
    return conv, norm, attention, compress


def _images(
    layout: torch.memory_format = torch.contiguous_format,
    dtype: torch.dtype = torch.double,
    channels: int = 3,
    mean: float = 2,
) -> Tensor:
    """Maps as after a ReLU, (2, channels, 9, 11), with means far from zero."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, channels, 9, 11, generator=generator, dtype=torch.double)
    return torch.relu(z + mean).to(dtype).contiguous(memory_format=layout)


def _modules(
    conv: Any, norm: Any, attention: Any, compress: Any, z: Tensor
) -> Tuple[Tensor, Tensor]:
    y = norm(conv(z))
    y = y if attention is None else attention(y)
    return y, compress(y)


def _run(function: Callable, parts: Parts, z: Tensor) -> List[Any]:
    """Outputs, gradients and statistics after a backward pass."""
    parts = deepcopy(parts)
    z = z.clone(memory_format=torch.preserve_format).requires_grad_()
    y, update = function(*parts, z)
    (y.square().sum() + update.pow(3).sum()).backward()
    grads = [p.grad for part in parts if part for p in part.parameters()]
    return [y, update, z.grad, *grads, *parts[1].buffers()]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('attention', [None, ECALayer, SELayer])
def test_equals_the_modules(
    training: bool, layout: torch.memory_format, attention: Any
) -> None:
    parts = _parts(attention and attention(12), training)
    ours = _run(conv_norm_compress, parts, _images(layout))
    usual = _run(_modules, parts, _images(layout))
    for a, b in zip(ours, usual):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a in ours[:3]:
        assert a.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('mean', 'limit'), [(0, 8), (2, 8), (10, 20)])
def test_float32_is_nearly_as_exact_as_the_modules(
    layout: torch.memory_format, mean: float, limit: float
) -> None:
    """Products lose precision where means are far from zero."""

    def run(function: Callable, dtype: torch.dtype) -> List[Tensor]:
        z = _images(layout, torch.float, 6, mean).to(dtype)
        parts = _parts(dtype=torch.float, channels=6)
        for part in parts:
            if part is not None:
                part.to(dtype)
        return _run(function, parts, z)[:-1]  # without the batch counter

    exact = run(_modules, torch.double)
    for ours, usual, truth in zip(
        run(conv_norm_compress, torch.float), run(_modules, torch.float), exact
    ):
        errors = [float((x - truth).norm() / truth.norm()) for x in (ours, usual)]
        assert errors[0] < max(limit * errors[1], 1e-6)


@pytest.mark.parametrize('training', [True, False])
def test_conv_norm_equals_the_modules(training: bool) -> None:
    results = []
    for fused in (False, True):
        conv, norm, _, _ = _parts(training=training)
        z = _images().requires_grad_()
        y = conv_norm(conv, norm, z) if fused else norm(conv(z))
        y.pow(3).sum().backward()
        parameters = [*conv.parameters(), *norm.parameters()]
        results.append([y, z.grad, *(p.grad for p in parameters), *norm.buffers()])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_second_derivatives() -> None:
    parts = _parts()

    def function(z: Tensor) -> Any:
        return conv_norm_compress(*deepcopy(parts), z)

    z = _images()[:1, :, :6].requires_grad_()
    assert torch.autograd.gradcheck(function, z)
    assert torch.autograd.gradgradcheck(function, z)


def test_only_the_convs_input_is_kept() -> None:
    parts, z = _parts(), _images().requires_grad_()
    maps = set()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4 and tensor.shape[2:] == z.shape[2:]:
            maps.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        conv_norm_compress(*parts, z)
    assert maps == {z.data_ptr()}


def test_frozen_parts_get_no_gradient() -> None:
    parts = _parts(training=False)
    for part in parts:
        if part is not None:
            part.requires_grad_(False)
    z = _images().requires_grad_()
    y, update = conv_norm_compress(*parts, z)
    (y.sum() + update.sum()).backward()
    assert z.grad is not None
    assert all(p.grad is None for part in parts if part for p in part.parameters())


# Networks

ECA = dict(plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')])
RESNET: Dict[str, Any] = dict(
    type='RLAResNet', depth=50, base_channels=8, rla_channels=4, norm_eval=False
)
NETWORKS: Dict[str, Dict[str, Any]] = {
    **{f'resnet-{v}': dict(RESNET, integration=v) for v in ('v1', 'v2', 'v3', 'v5')},
    'resnet-eca': dict(RESNET, **ECA),
    'resnet-eval': dict(RESNET, norm_eval=True),
    'resnet-frozen': dict(RESNET, frozen_stages=1),
    'resnet18': dict(RESNET, depth=18),
    'resnet-plain': dict(RESNET, rla_channels=0),
    'resnet-cp': dict(RESNET, with_cp=True),
    'resnet-gn': dict(RESNET, norm_cfg=dict(type='GN', num_groups=2)),
    'lstm': dict(RESNET, cell='convlstm'),
    'mmpretrain': dict(
        type='mmpretrain.RLAResNet', depth=50, base_channels=8, stem_channels=8
    ),
    'mobilenet': dict(type='mmpretrain.RLAMobileNetV2', widen_factor=0.25),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_a_training_step_is_the_same(name: str) -> None:
    """Outputs, gradients and statistics in float64, and names."""
    torch.manual_seed(0)
    model = MODELS.build(dict(NETWORKS[name])).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    fused = deepcopy(model)
    assert switch_to_fused_training(fused) == 1
    assert switch_to_fused_training(fused) == 0
    fused = deepcopy(fused)
    assert list(fused.state_dict()) == list(model.state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.double)
    results = []
    for network in (model, fused):
        network.train()
        outs = network(x)
        sum(out.square().mean() for out in outs).backward()
        grads = {n: p.grad for n, p in network.named_parameters()}
        results.append((outs, grads, network.state_dict()))
    for a, b in zip(results[0][0], results[1][0]):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
    for kind in (1, 2):
        for key, value in results[0][kind].items():
            other = results[1][kind][key]
            if value is None:
                assert other is None
            else:
                torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-9)


def test_other_networks_stay() -> None:
    model = RLAPreActResNet(20)
    assert switch_to_fused_training(model) == 0
    assert type(model) is RLAPreActResNet


def test_hook_switches_or_refuses() -> None:
    import mmrla.engine  # noqa: F401 - registers the hook

    hook = HOOKS.build(dict(type='FusedTrainingHook'))

    class _Runner:
        model = MODELS.build(dict(RESNET))
        optim_wrapper = object()

    hook.before_train(_Runner())
    assert type(_Runner.model).__name__ == 'FusedRLAResNet'
    _Runner.model = nn.Conv2d(3, 3, 1)
    with pytest.raises(UserError, match='no backbone'):
        hook.before_train(_Runner())
