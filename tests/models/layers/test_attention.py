# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Attention modules, and plugins in networks of both libraries."""

from typing import Any, List

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from mmrla.models import CBAM, ECALayer, SELayer


@pytest.mark.parametrize(
    ('channels', 'kernel'), [(256, 5), (512, 5), (1024, 5), (2048, 7)]
)
def test_eca_kernel_of_the_four_stages(channels: int, kernel: int) -> None:
    assert ECALayer(channels).conv.kernel_size == (kernel,)


@pytest.mark.parametrize('layer', [SELayer, ECALayer, CBAM])
def test_scales_each_channel_between_zero_and_one(layer: type) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 64, 5, 7) + 1
    ratio = layer(64)(x) / x
    assert ((ratio > 0) & (ratio < 1)).all()
    if layer is not CBAM:  # one factor per channel
        torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))


def test_eca_equation() -> None:
    layer, x = ECALayer(8, kernel_size=3), torch.randn(1, 8, 4, 4)
    means = torch.nn.functional.pad(x.mean((2, 3))[0], (1, 1))
    weights = torch.stack(
        [(means[c : c + 3] * layer.conv.weight[0, 0]).sum() for c in range(8)]
    )
    expected = x * torch.sigmoid(weights)[None, :, None, None]
    torch.testing.assert_close(layer(x), expected)


def _plugins(layer: str, **kwargs: Any) -> List[dict]:
    return [dict(cfg=dict(type=layer, **kwargs), position='after_conv3')]


@pytest.mark.parametrize('rla_channels', [0, 4])
@pytest.mark.parametrize('layer', ['SELayer', 'ECALayer', 'CBAM'])
def test_plugins_equal_mmdets(layer: str, rla_channels: int) -> None:
    """Over mmpretrain names and outputs are those of mmdet's ResNet."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmdet')
    torch.manual_seed(0)
    small = {} if layer == 'ECALayer' else dict(ratio=4)
    kwargs = dict(
        depth=50, base_channels=8, stem_channels=8, plugins=_plugins(layer, **small)
    )
    rla = dict(type='RLAResNet', rla_channels=rla_channels)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours = MODELS.build(dict(out_indices=(0, 1, 2, 3), **rla, **kwargs))
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = MODELS.build(
            {**(rla if rla_channels else dict(type='ResNet')), **kwargs}
        )
    ours.train(False)
    theirs.train(False)
    for p in ours.parameters():
        torch.nn.init.normal_(p, std=0.2)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ('plugin', 'message'),
    [
        (dict(position='after_conv1'), "position='after_conv1'.*'after_conv3'"),
        (dict(stages=(True,)), 'needs one entry for each of the 3'),
    ],
)
def test_unsupported_plugins_are_refused(plugin: dict, message: str) -> None:
    plugins = [{**_plugins('ECALayer')[0], **plugin}]
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='RLAPreActResNet', depth=20, plugins=plugins))


@pytest.mark.parametrize(
    ('layer', 'kwargs'),
    [
        (SELayer, dict(in_channels=0)),
        (SELayer, dict(in_channels=8, ratio=0)),
        (ECALayer, dict(in_channels=8, kernel_size=2)),
        (CBAM, dict(in_channels=8, kernel_size=4)),
    ],
)
def test_wrong_arguments(layer: type, kwargs: dict) -> None:
    with pytest.raises(ValueError, match='='):
        layer(**kwargs)
