# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""ResNet-110 and -164 for CIFAR: the network written out, DPN, arguments."""

from typing import Any, Dict

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from mmrla.models import RLAPreActResNet

from .written_out import norm, norms, randomise, recurrence

#: Two bottlenecks or three basic blocks per stage.
BOTTLENECK: Dict[str, Any] = dict(
    depth=20, bottleneck=True, base_channels=4, rla_channels=3
)
BASIC: Dict[str, Any] = dict(depth=20, base_channels=4, rla_channels=2)
PLAIN: Dict[str, Any] = {**BOTTLENECK, 'rla_channels': 0}


def _build(kwargs: Dict[str, Any], **more: Any) -> RLAPreActResNet:
    torch.manual_seed(0)
    return MODELS.build(dict(type='RLAPreActResNet', **{**kwargs, **more}))


def test_defaults_are_the_papers() -> None:
    with torch.device('meta'):
        basic, deep = RLAPreActResNet(110), RLAPreActResNet(164)
    assert basic.rla_channels == 4
    assert deep.rla_channels == 12
    assert not hasattr(basic.layer1[0], 'conv3')
    assert deep.layer3[-1].conv3.out_channels == 256
    for model in (basic, deep):
        assert [len(layer) for layer in model.layers_of_blocks] == [18] * 3


@pytest.mark.parametrize('kwargs', [BOTTLENECK, BASIC, PLAIN], ids=str)
def test_forward_is_the_equation(kwargs: dict) -> None:
    """He et al. 2016 with F_t(concat(x, h)), block by block."""
    k = kwargs['rla_channels']
    model = _build(kwargs, return_hidden=k > 0).eval()
    randomise(model)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        got = model(images)
        x = F.conv2d(images, model.conv1.weight, padding=1)
        h = x.new_zeros(2, k, 16, 16)
        for i, layer in enumerate(model.layers_of_blocks):
            for t, block in enumerate(layer):
                stride = 2 if i > 0 and t == 0 else 1
                weight = block.conv1.weight
                preact = F.relu(norm(block.bn1, x))
                y = preact
                if k:
                    norm_h, _, conv_h = model.rla[i].read[t]
                    y = F.relu(norms(block.bn1, norm_h, torch.cat((x, h), 1)))
                    weight = torch.cat((weight, conv_h.weight), 1)
                y = F.conv2d(y, weight, stride=stride, padding=weight.shape[-1] // 2)
                y = F.conv2d(F.relu(norm(block.bn2, y)), block.conv2.weight, padding=1)
                if hasattr(block, 'conv3'):
                    y = F.conv2d(F.relu(norm(block.bn3, y)), block.conv3.weight)
                if x.shape[1] != y.shape[1]:
                    x = F.conv2d(preact, block.downsample.weight, stride=stride) + y
                elif i == t == 0:
                    x = preact + y
                else:
                    x = x + y
                if k:
                    h = recurrence(model.rla[i], t, y, h, stride)
        x = F.relu(norm(model.norm, x))
    torch.testing.assert_close(got[0], x)
    if k:
        torch.testing.assert_close(got[1], h)


def test_dual_path_adds_and_appends() -> None:
    model = _build(PLAIN, dense_channels=3, out_indices=(0, 1, 2)).eval()
    # Beside the residual path 2 * 3 dense channels, and 3 more with each block.
    outs = model(torch.randn(1, 3, 16, 16))
    assert [out.shape[1] for out in outs] == [16 + 12, 32 + 12, 64 + 12]
    block = model.layer2[1]
    x = torch.randn(2, 32 + 9, 8, 8)
    with torch.no_grad():
        y, identity = block.branch(x)
        out = block.join(y, identity)
    assert torch.equal(identity, x)
    assert y.shape[1] == 32 + 3
    assert torch.equal(out[:, :32], x[:, :32] + y[:, :32])
    assert torch.equal(out[:, 32:], torch.cat((x[:, 32:], y[:, 32:]), 1))


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
        (dict(depth=29, bottleneck=True, extra_channels=6), r'extra_channels=6 is not'),
        (dict(extra_channels=-1), r'extra_channels=-1 is not a multiple of 1'),
        (dict(dense_channels=12), r'dense_channels=12 needs rla_channels=0, got 4'),
        (
            dict(rla_channels=0, dense_channels=-1),
            r'dense_channels=-1 is not in the range',
        ),
        (dict(base_channels=0), r'base_channels=0 is not a positive int'),
        (dict(out_indices=(3,)), r'out_indices entry=3 is not in the range 0 to 2'),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLAPreActResNet(**{'depth': 20, 'base_channels': 4, **kwargs})
