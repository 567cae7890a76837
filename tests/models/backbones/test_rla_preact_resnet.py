# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""ResNet-110 and -164 for CIFAR: the paper's counts, He's network, DPN."""

from typing import Any, Dict, List

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmrla.checkpoints import WiringMismatchError
from mmrla.models import RLANeck, RLAPreActResNet

#: Two bottlenecks, or three basic blocks, a stage.
BOTTLENECK: Dict[str, Any] = dict(
    depth=20, bottleneck=True, base_channels=4, rla_channels=3
)
BASIC: Dict[str, Any] = dict(depth=20, base_channels=4, rla_channels=2)
PLAIN: Dict[str, Any] = {**BOTTLENECK, 'rla_channels': 0}

RLA_VARIANTS: List[Dict[str, Any]] = [
    BOTTLENECK,
    BASIC,
    *[{**BOTTLENECK, 'integration': f'v{i}'} for i in range(2, 7)],
    *[{**BASIC, 'cell': cell} for cell in ('post-act', 'convlstm', 'convgru')],
    {**BOTTLENECK, 'shared': False},
    {**BOTTLENECK, 'exchange': False},
    {**BASIC, 'attention': dict(type='ECALayer')},
]
VARIANTS: List[Dict[str, Any]] = [
    *RLA_VARIANTS,
    PLAIN,
    {**BASIC, 'rla_channels': 0, 'extra_channels': 3},
    {**PLAIN, 'extra_channels': 12},
    {**PLAIN, 'dense_channels': 3},
    {**BASIC, 'rla_channels': 0, 'dense_channels': 3},
]


def _id(kwargs: Any) -> str:
    return '-'.join(f'{k}={v}' for k, v in kwargs.items() if k != 'base_channels')


all_variants = pytest.mark.parametrize('kwargs', VARIANTS, ids=_id)
rla_variants = pytest.mark.parametrize('kwargs', RLA_VARIANTS, ids=_id)


def _build(kwargs: Dict[str, Any], **more: Any) -> RLAPreActResNet:
    torch.manual_seed(0)
    return MODELS.build(dict(type='RLAPreActResNet', **{**kwargs, **more}))


def _without_effect(kwargs: Dict[str, Any]) -> List[str]:
    """v2, v4 and v6 begin with the norm of the zero state; its scale is idle."""
    idle = kwargs.get('integration') in ('v2', 'v4', 'v6')
    return ['layer1.rla.norms.0.weight'] if idle else []


@pytest.mark.parametrize(
    ('kwargs', 'classes', 'millions'),
    [
        # Table 2, baselines and with RLA
        (dict(depth=110, rla_channels=0), 10, 1.73),
        (dict(depth=110, rla_channels=0), 100, 1.74),
        (dict(depth=110), 10, 1.73 + 0.07),
        (dict(depth=110), 100, 1.74 + 0.07),
        (dict(depth=164, rla_channels=0), 10, 1.72),
        (dict(depth=164, rla_channels=0), 100, 1.74),
        (dict(depth=164), 10, 1.72 + 0.02),
        (dict(depth=164), 100, 1.74 + 0.02),
        # Table 11
        (dict(depth=164, rla_channels=0, extra_channels=12), 10, 1.93),
        (dict(depth=164, shared=False), 10, 1.90),
        (dict(depth=164, exchange=False), 10, 1.72),
        (dict(depth=164, cell='convlstm'), 10, 1.77),
        (dict(depth=164, cell='post-act'), 10, 1.74),
        (dict(depth=164, rla_channels=0, dense_channels=12), 10, 2.13),
        *[(dict(depth=164, integration=f'v{i}'), 10, 1.74) for i in range(2, 7)],
        # Table 13
        (dict(depth=164, rla_channels=8), 10, 1.73),
        (dict(depth=164, rla_channels=16), 10, 1.75),
        (dict(depth=164, rla_channels=24), 10, 1.78),
    ],
    ids=lambda v: _id(v) if isinstance(v, dict) else str(v),
)
def test_parameters_are_the_papers(kwargs: dict, classes: int, millions: float) -> None:
    returns = kwargs.get('rla_channels') != 0
    with torch.device('meta'):
        model = RLAPreActResNet(**kwargs, return_hidden=returns)
    k = model.rla_channels
    # The state of these cells is used as it is, without a norm.
    norm = 0 if kwargs.get('cell') in ('convlstm', 'post-act') else 2 * k
    count = sum(p.numel() for p in model.parameters()) + norm
    count += (model.out_channels[-1] + k + 1) * classes
    assert count == pytest.approx(millions * 1e6, rel=0.015)


def test_defaults_are_the_papers() -> None:
    with torch.device('meta'):
        basic, deep = RLAPreActResNet(110), RLAPreActResNet(164)
    assert (basic.bottleneck, basic.rla_channels) == (False, 4)
    assert (deep.bottleneck, deep.rla_channels) == (True, 12)
    assert basic.out_channels == (64,)
    assert deep.out_channels == (256,)
    for model in (basic, deep):
        assert [len(stage.blocks) for stage in model.stages] == [18] * 3


def _random_statistics(model: nn.Module) -> None:
    for name, values in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(('running_mean', '.bias')):
            nn.init.normal_(values)
        elif name.endswith('running_var'):
            nn.init.uniform_(values, 0.5, 2)


def _bn(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize('kwargs', [BOTTLENECK, BASIC, PLAIN], ids=_id)
def test_forward_is_the_equation(kwargs: dict) -> None:
    """He et al. 2016 with F_t(concat(x, h)), written out block by block."""
    k = kwargs['rla_channels']
    model = _build(kwargs, return_hidden=k > 0).eval()
    _random_statistics(model)
    x0 = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        got = model(x0)
        x = F.conv2d(x0, model.conv1.weight, padding=1)
        h = x.new_zeros(2, k, 16, 16)
        for i, stage in enumerate(model.stages):
            for t, block in enumerate(stage.blocks):
                stride = 2 if i > 0 and t == 0 else 1
                preact = F.relu(_bn(block.bn1, torch.cat((x, h), 1)))
                if model.bottleneck:
                    y = F.conv2d(preact, block.conv1.weight, stride=stride)
                    y = F.conv2d(
                        F.relu(_bn(block.bn2, y)), block.conv2.weight, padding=1
                    )
                    y = F.conv2d(F.relu(_bn(block.bn3, y)), block.conv3.weight)
                else:
                    y = F.conv2d(preact, block.conv1.weight, stride=stride, padding=1)
                    y = F.conv2d(
                        F.relu(_bn(block.bn2, y)), block.conv2.weight, padding=1
                    )
                channels = x.shape[1]
                if channels != y.shape[1]:
                    weight = block.downsample.weight
                    x = F.conv2d(preact[:, :channels], weight, stride=stride) + y
                elif i == t == 0:
                    x = preact[:, :channels] + y
                else:
                    x = x + y
                if k:
                    h = F.avg_pool2d(h, stride) if stride > 1 else h
                    total = h + F.conv2d(y, stage.rla.compress[0].weight)
                    h = torch.tanh(_bn(stage.rla.norms[t], total))
                    h = F.conv2d(h, stage.rla.recurrent[0].weight, padding=1)
                else:
                    h = h[..., ::stride, ::stride]
        x = F.relu(_bn(model.norm, x))
    torch.testing.assert_close(got[0], x)
    if k:
        torch.testing.assert_close(got[1], h)


def test_dual_path_adds_and_appends() -> None:
    model = _build(PLAIN, dense_channels=3, out_indices=(0, 1, 2)).eval()
    # 4p residual channels; 2 * 3 dense ones to begin with, 3 more each block.
    assert model.out_channels == (16 + 12, 32 + 12, 64 + 12)
    block = model.layer2.blocks[1]
    x = torch.randn(2, 32 + 9, 8, 8)
    with torch.no_grad():
        y, identity, out, _ = block(x)
    assert torch.equal(identity, x)
    assert y.shape[1] == 32 + 3
    assert torch.equal(out[:, :32], x[:, :32] + y[:, :32])
    assert torch.equal(out[:, 32:], torch.cat((x[:, 32:], y[:, 32:]), 1))


@all_variants
def test_every_parameter_gets_a_gradient_without_the_hidden_state(kwargs: dict) -> None:
    model = _build(kwargs, out_indices=(0, 1, 2))
    outs = model(torch.randn(4, 3, 32, 32))
    assert [out.shape[1] for out in outs] == list(model.out_channels)
    assert [out.shape[2] for out in outs] == [32, 16, 8]
    sum(out.square().mean() for out in outs).backward()
    no_effect = _without_effect(kwargs)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert name in no_effect or p.grad.abs().sum() > 0, name


@rla_variants
def test_every_parameter_gets_a_gradient_in_a_classifier(kwargs: dict) -> None:
    model = _build(kwargs, return_hidden=True)
    neck = RLANeck(rla_channels=kwargs['rla_channels'])
    (features,) = neck(model(torch.randn(4, 3, 32, 32)))
    assert features.shape == (4, model.out_channels[-1] + kwargs['rla_channels'])
    features.square().mean().backward()
    no_effect = _without_effect(kwargs)
    for name, p in [*model.named_parameters(), *neck.named_parameters()]:
        assert p.grad is not None, name
        assert name in no_effect or p.grad.abs().sum() > 0, name


@all_variants
def test_odd_sizes_and_bfloat16(kwargs: dict) -> None:
    model = _build(kwargs, return_hidden=kwargs['rla_channels'] > 0)
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


def test_weights_of_another_wiring_are_refused() -> None:
    weights = _build(BASIC).state_dict()
    with pytest.raises(WiringMismatchError, match="integration='v1'.*'v5'"):
        _build(BASIC, integration='v5').load_state_dict(weights, strict=False)


def test_initialisation_is_deterministic() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        model = RLAPreActResNet(**BOTTLENECK)
        model.init_weights()
        models.append(model)
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters()):
        assert torch.equal(a, b), name
    weight = models[0].layer3.blocks[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 3])
def test_frozen_stages(frozen_stages: int) -> None:
    model = _build(BOTTLENECK, frozen_stages=frozen_stages).train()
    names = ['conv1', 'layer1', 'layer2', 'layer3'][: frozen_stages + 1]
    for name, p in model.named_parameters():
        assert p.requires_grad == (name.split('.')[0] not in names), name


def test_layer_depths() -> None:
    model = _build(BASIC)
    depths = {n: model.get_layer_depth(n)[0] for n, _ in model.named_parameters()}
    assert depths['conv1.weight'] == 0
    assert depths['layer1.blocks.0.bn1.weight'] == 1
    assert depths['layer3.blocks.2.conv2.weight'] == 9
    assert depths['norm.weight'] == 10


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=18), r'depth=18 is not 6n \+ 2 \(20, 32, 56, 110\)'),
        (
            dict(depth=21),
            r'depth=21 is not 6n \+ 2 \(20, 32, .*bottleneck=True takes 9',
        ),
        (dict(depth=165), r'depth=165 is not 9n \+ 2 .*bottleneck=False takes 6n \+ 2'),
        (dict(depth=2), r'depth=2 is not 6n \+ 2'),
        (dict(depth='164'), r"depth='164' is not a positive int"),
        (dict(rla_channels=-1), r'rla_channels=-1 is not in the range 0 to'),
        (dict(integration='v7'), r"integration='v7' is not one of 'v1'"),
        (dict(cell='lstm'), r"cell='lstm' is not one of 'conv'"),
        (dict(cell='convlstm', integration='v4'), r"integration='v4' needs cell"),
        (dict(depth=29, bottleneck=True, extra_channels=6), r'extra_channels=6 is not'),
        (dict(extra_channels=-1), r'extra_channels=-1 is not a multiple of 1'),
        (dict(dense_channels=12), r'dense_channels=12 needs rla_channels=0, got 4'),
        (dict(dense_channels=-1), r'dense_channels=-1 is not in the range'),
        (dict(base_channels=0), r'base_channels=0 is not a positive int'),
        (dict(out_indices=(3,)), r'out_indices entry=3 is not in the range 0 to 2'),
        (dict(attention=[None] * 4), r'a list of 3 of them'),
        (dict(attention=dict(type='Nope')), r"attention type 'Nope' is not registered"),
        (dict(rla_channels=0, return_hidden=True), r'return_hidden=True needs rla'),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLAPreActResNet(**{'depth': 20, 'base_channels': 4, **kwargs})
