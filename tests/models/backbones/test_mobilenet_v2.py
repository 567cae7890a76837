# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-MobileNetV2: counts, the network written out, and both libraries' forms."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

from mmrla.models.backbones.mobilenet_v2 import convs_of

from .written_out import norm, norms, randomise, recurrence

pytest.importorskip('mmpretrain')


def _build(library: str = 'mmpretrain', **kwargs: Any) -> Any:
    torch.manual_seed(0)
    type_ = 'RLAMobileNetV2' if library == 'mmdet' else f'{library}.RLAMobileNetV2'
    kwargs = dict(widen_factor=0.25, rla_channels=3, **kwargs)
    return MODELS.build(dict(type=type_, **kwargs))


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    'kwargs', [{}, dict(recurrent_conv='depthwise', tied=True)], ids=['paper', 'tied']
)
def test_forward_is_the_equation(library: str, kwargs: dict) -> None:
    """Depthwise and linear conv of concat(z, h), written out block by block."""
    if library == 'mmdet':
        pytest.importorskip('mmdet')
    model = _build(library, out_indices=(6, 7), **kwargs).eval()
    randomise(model)
    images = torch.randn(2, 3, 64, 64)
    strides = [s for _, _, n, s in model.arch_settings]
    with torch.no_grad():
        got = model(images)
        x = model.conv1(images)
        h = x.new_zeros(2, 3, 32, 32)
        for i, layer in enumerate(model.layers_of_blocks):
            for t, block in enumerate(layer):
                unit, step = model.unit_of(i, t)
                stride = strides[i] if t == 0 else 1
                *expand, depthwise, linear = convs_of(block)
                read = unit.read[step]
                z = expand[0](x) if expand else x
                z = torch.cat((z, h), 1)
                weight = torch.cat((depthwise.conv.weight, read.depthwise.weight))
                z = F.conv2d(z, weight, None, stride, 1, groups=z.shape[1])
                z = F.relu6(norms(depthwise.norm, read.norm, z))
                weight = torch.cat((linear.conv.weight, read.pointwise.weight), 1)
                y = norm(linear.norm, F.conv2d(z, weight))
                x = x + y if stride == 1 and x.shape == y.shape else y
                h = recurrence(unit, step, y, h, stride if step == 0 else 1)
        last = model.rla[-1].last
        both = torch.cat((x, F.relu6(norm(last.norm, h))), 1)
        weight = torch.cat((model.conv2.conv.weight, last.conv.weight), 1)
        end = F.relu6(norm(model.conv2.norm, F.conv2d(both, weight)))
    torch.testing.assert_close(got[0], x)
    torch.testing.assert_close(got[1], end)


@pytest.mark.parametrize(
    ('kwargs', 'published'),
    [
        (dict(recurrent_conv='depthwise', tied=True), 3.46),
        (dict(rla_channels=0), 3.34),
    ],
)
def test_parameters_of_the_classifier(kwargs: dict, published: float) -> None:
    """Table 3, in units of 2**20."""
    with torch.device('meta'):
        model = MODELS.build(dict(type='mmpretrain.RLAMobileNetV2', **kwargs))
    count = sum(p.numel() for p in model.parameters()) + 1281 * 1000
    assert round(count / 2**20, 2) == published


def test_layers_of_one_resolution_share_a_unit() -> None:
    model = _build()
    assert [unit.num_blocks for unit in model.rla] == [1, 2, 3, 4 + 3, 3 + 1]
    assert [len(unit.compress) for unit in model.rla] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(integration='v5'), r"integration='v5' is not one of 'v1', .*'v4'$"),
        (dict(recurrent_conv='dense'), r"recurrent_conv='dense' is not one of 'full'"),
        (dict(tied=True, shared=False), r'tied=True needs shared=True'),
        (dict(tied=True, cell='convgru'), r"cell='convgru'"),
    ],
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _build(**kwargs)
