# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Thin Xception for CIFAR: the paper's counts and Chollet's network."""

from typing import Any, Dict, List

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmrla.models import RLANeck, RLAXception

SMALL: Dict[str, Any] = dict(
    rla_channels=3,
    stem_channels=(4, 6),
    entry_channels=(6, 8, 10),
    num_middle_blocks=1,
    exit_channels=(12, 14, 16),
)
RLA_VARIANTS: List[Dict[str, Any]] = [
    {},
    *[dict(integration=f'v{i}') for i in range(2, 5)],
    *[dict(cell=cell) for cell in ('post-act', 'convlstm', 'convgru')],
    dict(shared=False),
    dict(exchange=False),
    dict(attention=[None, dict(type='ECALayer'), dict(type='SELayer', ratio=2)]),
]
VARIANTS = [*RLA_VARIANTS, dict(rla_channels=0)]
all_variants = pytest.mark.parametrize('kwargs', VARIANTS, ids=str)
rla_variants = pytest.mark.parametrize('kwargs', RLA_VARIANTS, ids=str)


def _build(kwargs: Dict[str, Any], **more: Any) -> RLAXception:
    torch.manual_seed(0)
    return MODELS.build(dict(type='RLAXception', **{**SMALL, **kwargs, **more}))


def _without_effect(kwargs: Dict[str, Any]) -> List[str]:
    """v2 and v4 begin with the norm of the zero state; its scale is idle."""
    idle = kwargs.get('integration') in ('v2', 'v4')
    return ['layer1.rla.norms.0.weight'] if idle else []


@pytest.mark.parametrize(
    ('rla_channels', 'classes', 'millions'),
    [(0, 10, 2.70), (0, 100, 2.75), (12, 10, 2.70 + 0.07), (12, 100, 2.75 + 0.06)],
)
def test_parameters_are_the_papers(
    rla_channels: int, classes: int, millions: float
) -> None:
    with torch.device('meta'):
        model = RLAXception(rla_channels, return_hidden=rla_channels > 0)
    count = sum(p.numel() for p in model.parameters()) + 2 * rla_channels
    count += (model.out_channels[-1] + rla_channels + 1) * classes
    assert count == pytest.approx(millions * 1e6, rel=0.015)


def _random_statistics(model: nn.Module) -> None:
    for name, values in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(('running_mean', '.bias')):
            nn.init.normal_(values)
        elif name.endswith('running_var'):
            nn.init.uniform_(values, 0.5, 2)


def _bn(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def _separable(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    depthwise, pointwise = conv.depthwise_conv.conv, conv.pointwise_conv.conv
    x = F.conv2d(x, depthwise.weight, padding=1, groups=x.shape[1])
    return _bn(conv.pointwise_conv.norm, F.conv2d(x, pointwise.weight))


@pytest.mark.parametrize('rla_channels', [0, 3])
def test_forward_is_the_equation(rla_channels: int) -> None:
    """Chollet 2017 with F_t(concat(x, h)), written out block by block."""
    model = _build({}, rla_channels=rla_channels, return_hidden=rla_channels > 0).eval()
    _random_statistics(model)
    x0 = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        got = model(x0)
        x = x0
        for conv in (model.conv1, model.conv2):
            x = F.relu(_bn(conv.norm, F.conv2d(x, conv.conv.weight, padding=1)))
        h = x.new_zeros(2, rla_channels, 16, 16)
        for i, stage in enumerate(model.stages):
            widths = [block.out_channels for block in stage.blocks]
            for t, block in enumerate(stage.blocks):
                stride = 2 if i > 0 and t == 0 else 1
                y = torch.cat((x, h), 1)
                if i == 2 and t > 0:  # the exit flow's last convs
                    y = _separable(block.conv, y)
                    x = F.relu(y)
                else:
                    for conv in block.convs:
                        y = _separable(conv, F.relu(y))
                    if stride > 1:
                        ones = F.avg_pool2d(torch.ones_like(y), 3, 2, 1)
                        y = F.avg_pool2d(y, 3, 2, 1) / ones
                    if x.shape[1] != y.shape[1]:
                        down = block.downsample
                        x = F.conv2d(x, down.conv.weight, stride=stride)
                        x = _bn(down.norm, x)
                    x = x + y
                if rla_channels:
                    h = F.avg_pool2d(h, stride) if stride > 1 else h
                    index = list(dict.fromkeys(widths)).index(block.out_channels)
                    total = h + F.conv2d(y, stage.rla.compress[index].weight)
                    h = torch.tanh(_bn(stage.rla.norms[t], total))
                    h = F.conv2d(h, stage.rla.recurrent[0].weight, padding=1)
                else:
                    h = h[..., ::stride, ::stride]
    torch.testing.assert_close(got[0], x)
    if rla_channels:
        torch.testing.assert_close(got[1], h)


def test_blocks_of_one_resolution_form_a_stage() -> None:
    with torch.device('meta'):
        model = RLAXception(out_indices=(0, 1, 2))
    assert [len(stage.blocks) for stage in model.stages] == [2, 1 + 8, 1 + 2]
    assert model.out_channels == (128, 256, 512)


@all_variants
def test_every_parameter_gets_a_gradient_without_the_hidden_state(kwargs: dict) -> None:
    model = _build(kwargs, out_indices=(0, 1, 2))
    outs = model(torch.randn(4, 3, 32, 32))
    assert [out.shape[1:] for out in outs] == [(8, 32, 32), (10, 16, 16), (16, 8, 8)]
    sum(out.square().mean() for out in outs).backward()
    no_effect = _without_effect(kwargs)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert name in no_effect or p.grad.abs().sum() > 0, name


@rla_variants
def test_every_parameter_gets_a_gradient_in_a_classifier(kwargs: dict) -> None:
    model, neck = _build(kwargs, return_hidden=True), RLANeck(rla_channels=3)
    (features,) = neck(model(torch.randn(4, 3, 32, 32)))
    assert features.shape == (4, 16 + 3)
    features.square().mean().backward()
    no_effect = _without_effect(kwargs)
    for name, p in [*model.named_parameters(), *neck.named_parameters()]:
        assert p.grad is not None, name
        assert name in no_effect or p.grad.abs().sum() > 0, name


@all_variants
def test_odd_sizes_and_bfloat16(kwargs: dict) -> None:
    model = _build(kwargs, return_hidden='rla_channels' not in kwargs)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outs = model(torch.randn(2, 3, 33, 21))
    for out in outs:
        assert out.shape[2:] == (9, 6)  # strided convs round up
        assert out.isfinite().all()
    sum(out.float().square().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@all_variants
def test_checkpointing_changes_no_gradient(kwargs: dict) -> None:
    x = torch.randn(2, 3, 16, 16)
    outs, grads = [], []
    for with_cp in (False, True):
        # Norms in eval mode: recomputation would update their statistics twice.
        model = _build(kwargs, with_cp=with_cp, norm_eval=True).train()
        out = model(x)[0]
        out.square().mean().backward()
        outs.append(out)
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert torch.equal(*outs)
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


@all_variants
def test_state_dict_round_trip(kwargs: dict) -> None:
    model, other = _build(kwargs).eval(), _build(kwargs).eval()
    for p in other.parameters():
        nn.init.normal_(p)
    other.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(x)[0], other(x)[0])


def test_zero_init_residual_is_an_option() -> None:
    def zeroed(model: RLAXception) -> int:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return sum(bool((norm.weight == 0).all()) for norm in norms)

    model, zero = _build({}), _build({}, zero_init_residual=True)
    model.init_weights()
    zero.init_weights()
    assert zeroed(model) == 0
    # Five blocks with an identity; the two separable convs have none.
    assert zeroed(zero) == 5


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
def test_frozen_stages(frozen_stages: int) -> None:
    model = _build({}, frozen_stages=frozen_stages).train()
    stem = ['conv1', 'conv2'] if frozen_stages >= 0 else []
    names = [*stem, *['layer1', 'layer2', 'layer3'][: max(frozen_stages, 0)]]
    for name, p in model.named_parameters():
        assert p.requires_grad == (name.split('.')[0] not in names), name


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(integration='v5'), r"integration='v5' is not one of 'v1', .*'v4'$"),
        (dict(integration='v7'), r"integration='v7' is not one of 'v1'"),
        (dict(cell='lstm'), r"cell='lstm' is not one of 'conv'"),
        (dict(rla_channels=-1), r'rla_channels=-1 is not in the range 0 to'),
        (dict(in_channels=0), r'in_channels=0 is not a positive int'),
        (dict(stem_channels=(4,)), r'stem_channels=\(4,\) needs 2 entries'),
        (dict(entry_channels=(4, 8)), r'entry_channels=\(4, 8\) needs 3 entries'),
        (dict(exit_channels=(4, 8, 0)), r'exit_channels entry=0 is not a positive'),
        (dict(num_middle_blocks=-1), r'num_middle_blocks=-1 is not in the range'),
        (dict(out_indices=(3,)), r'out_indices entry=3 is not in the range 0 to 2'),
        (dict(attention=[None]), r'a list of 3 of them'),
        (dict(rla_channels=0, return_hidden=True), r'return_hidden=True needs rla'),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLAXception(**{**SMALL, **kwargs})
