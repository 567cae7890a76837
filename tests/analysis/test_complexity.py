# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Counts match the paper's figures and are exact for each kind of layer."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmrla.analysis.complexity import PAPER_UNITS, Cost, measure
from mmrla.models import RLANeck


class Classifier(nn.Module):
    """Backbone, neck and head, as mmpretrain names them."""

    def __init__(self, backbone, neck, channels):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = nn.Linear(channels, 1000)

    def forward(self, x):
        return self.head(self.neck(self.backbone(x))[0])


def resnet(depth=50, rla_channels=32, neck=None, channels=2048, **kwargs):
    cfg = dict(type='mmpretrain.RLAResNet', depth=depth, rla_channels=rla_channels)
    return Classifier(
        MODELS.build(dict(cfg, return_hidden=rla_channels > 0, **kwargs)),
        RLANeck(rla_channels, **(neck or {})),
        channels + rla_channels,
    )


def mobilenet(rla_channels=32, **kwargs):
    cfg = dict(type='mmpretrain.RLAMobileNetV2', rla_channels=rla_channels)
    return Classifier(MODELS.build(dict(cfg, **kwargs)), RLANeck(0), 1280)


def plugins(layer):
    return [dict(cfg=dict(type=layer), position='after_conv3')]


def counted(model, *shape, device='meta'):
    x = torch.zeros(1, *shape, device=device)
    return measure(model.eval().to(device), x)


def printed(model):
    """Params and FLOPs as printed in Tables 3 and 6."""
    params, cost = counted(model, 3, 224, 224).of()
    return f'{params / PAPER_UNITS["M"]:.2f} {cost.paper_flops / PAPER_UNITS["G"]:.2f}'


def test_exact_counts_of_resnet50():
    params, cost = counted(resnet(rla_channels=0), 3, 224, 224).of()
    assert params == 25_557_032
    assert cost.macs == 4_089_184_256
    assert cost.norm_elements == 11_113_984
    assert cost.pool_ops == 2048 * (7 * 7 + 1)
    assert cost.paper_flops == 4_089_184_256 + 2 * 11_113_984 + 2048 * 50


def test_exact_counts_of_rla_resnet50():
    complexity = counted(resnet(), 3, 224, 224)
    params, cost = complexity.of()
    assert params == 25_870_696
    stages = ((3, 56), (4, 28), (6, 14), (3, 7))
    norms = sum(32 * blocks * side**2 for blocks, side in stages) + 32 * 7**2
    assert cost.norm_elements == 11_113_984 + norms
    pools = sum(32 * side**2 for _, side in stages[1:])
    assert cost.pool_ops == (2048 + 32) * 50 + pools


@pytest.mark.parametrize(
    'kwargs, expected',
    [
        (dict(rla_channels=0), '24.37 3.83'),
        (dict(), '24.67 4.17'),
        (dict(integration='v3'), '24.67 4.17'),
        (dict(integration='v6'), '24.67 4.17'),
        (dict(plugins=plugins('ECALayer')), '24.67 4.18'),
        (dict(rla_channels=0, plugins=plugins('SELayer')), '26.77 3.84'),
        (dict(rla_channels=0, plugins=plugins('CBAM')), '26.77 3.84'),
        (dict(rla_channels=0, extra_channels=32, channels=2080), '25.55 4.24'),
        (dict(shared=False), '25.12 4.17'),
        (dict(exchange=False), '24.56 4.11'),
        (
            dict(cell='convlstm', neck=dict(norm_cfg=None, act_cfg=None)),
            '24.92 5.00',
        ),
        (
            dict(cell='post-act', neck=dict(norm_cfg=None, act_cfg=None)),
            '24.67 4.17',
        ),
        (dict(depth=152), '57.96 11.47'),
    ],
)
def test_printed_figures_of_resnets(kwargs, expected):
    assert printed(resnet(**kwargs)) == expected


@pytest.mark.parametrize(
    'kwargs, expected',
    [
        (dict(rla_channels=0), '299.6'),
        (dict(recurrent_conv='depthwise', tied=True), '351.8'),
    ],
)
def test_printed_flops_of_mobilenets(kwargs, expected):
    cost = counted(mobilenet(**kwargs), 3, 224, 224).of()[1]
    assert f'{cost.paper_flops / PAPER_UNITS["M"]:.1f}' == expected


def test_pooling_before_mobilenet_classifier_is_not_counted():
    complexity = counted(mobilenet(), 3, 64, 64)
    assert complexity.of('neck')[1].pool_ops == 0
    pools = sum(32 * (64 // 2**i) ** 2 for i in range(2, 6))
    assert complexity.of()[1].pool_ops == pools


def test_reads_of_zero_state_are_counted():
    complexity = counted(resnet(), 3, 224, 224)
    conv = complexity.of('backbone.layer1.0.conv1')[1]
    read = complexity.of('backbone.rla.0.read.0')[1]
    assert conv + read == Cost(macs=(64 + 32) * 64 * 56**2)


def test_measure_restores_model():
    model = resnet(base_channels=8).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        features = model.backbone(x)
        measure(model.backbone, x)
        again = model.backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(features, again))
    with pytest.raises(RuntimeError):
        measure(model, torch.rand(1, 4, 32, 32))
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in model.modules()]
    assert not any(hooks)


def test_meta_and_cpu_counts_agree():
    def thin():
        return resnet(rla_channels=4, base_channels=8, channels=256, cell='convgru')

    on_cpu = counted(thin(), 3, 65, 90, device='cpu')
    on_meta = counted(thin(), 3, 65, 90)
    assert on_cpu.costs == on_meta.costs
    assert on_cpu.params == on_meta.params


def test_parts_sum_to_total():
    complexity = counted(resnet(), 3, 64, 96)
    backbone = complexity.of('backbone')
    parts = ['conv1', 'bn1', 'rla', *(f'layer{i}' for i in range(1, 5))]
    costs = [complexity.of(f'backbone.{part}') for part in parts]
    assert sum(params for params, _ in costs) == backbone[0]
    assert sum((cost for _, cost in costs), Cost()) == backbone[1]
    unit = complexity.of('backbone.rla.1')
    inner = [
        complexity.of(f'backbone.rla.1.{part}')
        for part in ('read', 'compress', 'recurrent', 'norms', 'pool')
    ]
    assert sum(params for params, _ in inner) == unit[0]
    assert sum((cost for _, cost in inner), Cost()) == unit[1]
    assert complexity.of('backbone.layer5') == (0, Cost())


def test_tied_modules_count_at_each_call():
    tied = counted(mobilenet(recurrent_conv='depthwise', tied=True), 3, 64, 64)
    own = counted(mobilenet(recurrent_conv='depthwise'), 3, 64, 64)
    for i in range(5):
        name = f'backbone.rla.{i}'
        assert tied.of(name)[1] == own.of(name)[1] != Cost()
    # Its parameters, once.
    assert own.of()[0] - tied.of()[0] == 4 * 32 * 9


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    'module, expected',
    [
        (nn.Conv2d(8, 6, 3, padding=1), Cost(macs=8 * 6 * 9 * 8 * 6)),
        (nn.Conv2d(8, 8, 3, groups=4), Cost(macs=8 * 2 * 9 * 6 * 4)),
        (nn.ConvTranspose2d(8, 4, 2, stride=2), Cost(macs=8 * 4 * 4 * 8 * 6)),
        (
            Apply(lambda x: F.conv2d(x, x.new_zeros(5, 8, 1, 1))),
            Cost(macs=8 * 5 * 8 * 6),
        ),
        (
            nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 2, 5, padding=2)),
            Cost(macs=8 * 2 * 5 * 48),
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(384, 10)),
            Cost(macs=384 * 10),
        ),
        (
            Apply(lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2)),
            Cost(macs=8 * 48 * 8),
        ),
        (nn.BatchNorm2d(8), Cost(norm_elements=8 * 8 * 6)),
        (nn.GroupNorm(2, 8), Cost()),
        (nn.AvgPool2d(2), Cost(pool_ops=8 * 4 * 3)),
        (nn.AvgPool2d(4, 4, ceil_mode=True), Cost(pool_ops=8 * 2 * 2)),
        (nn.AdaptiveAvgPool2d(1), Cost(pool_ops=8 * (48 + 1))),
        (nn.AdaptiveAvgPool2d((4, 3)), Cost(pool_ops=8 * 12 * (2 * 2 + 1))),
        (Apply(lambda x: x.mean((2, 3))), Cost(pool_ops=8 * (48 + 1))),
        (Apply(lambda x: x.mean((-1, -2), keepdim=True)), Cost(pool_ops=8 * 49)),
        (Apply(lambda x: x.mean(1)), Cost()),
        (Apply(lambda x: x.mean()), Cost()),
        (nn.AdaptiveMaxPool2d(1), Cost()),
        (nn.MaxPool2d(2), Cost()),
    ],
)
def test_cost_of_layers(module, expected):
    # (1, 8, 8, 6) makes every factor of a count visible.
    complexity = counted(nn.Sequential(module), 8, 8, 6)
    assert complexity.of() == (
        sum(p.numel() for p in module.parameters()),
        expected,
    )
    assert complexity.of('0')[1] == expected


def test_unused_modules_are_named():
    class Forgetful(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Conv2d(3, 4, 1)
            self.unused = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.used(x)

    assert counted(Forgetful(), 3, 8, 8).uncounted == ['unused']
