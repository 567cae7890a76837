# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Thin Xception for CIFAR: the network written out, arguments."""

from typing import Any, Dict

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmrla.models import RLAXception

from .written_out import norm, randomise, recurrence

SMALL: Dict[str, Any] = dict(
    rla_channels=3,
    stem_channels=(4, 6),
    entry_channels=(6, 8, 10),
    num_middle_blocks=1,
    exit_channels=(12, 14, 16),
)


def _build(kwargs: Dict[str, Any], **more: Any) -> RLAXception:
    torch.manual_seed(0)
    return MODELS.build(dict(type='RLAXception', **{**SMALL, **kwargs, **more}))


def _separable(conv: Any, x: Tensor, h: Any = None, reads: Any = ()) -> Tensor:
    """Depthwise and 1x1 conv of x or of concat(x, h), then norm."""
    depthwise, pointwise = conv.depthwise_conv.conv, conv.pointwise_conv.conv
    weights = [depthwise.weight, pointwise.weight]
    if reads:
        x = torch.cat((x, h), 1)
        weights = [
            torch.cat((own, read.weight), dim)
            for dim, (own, read) in enumerate(zip(weights, reads))
        ]
    x = F.conv2d(x, weights[0], padding=1, groups=x.shape[1])
    return norm(conv.pointwise_conv.norm, F.conv2d(x, weights[1]))


@pytest.mark.parametrize('rla_channels', [0, 3])
def test_forward_is_the_equation(rla_channels: int) -> None:
    """Chollet 2017 with F_t(concat(x, h)), block by block."""
    model = _build({}, rla_channels=rla_channels, return_hidden=rla_channels > 0).eval()
    randomise(model)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        got = model(images)
        x = images
        for conv in (model.conv1, model.conv2):
            x = F.relu(norm(conv.norm, F.conv2d(x, conv.conv.weight, padding=1)))
        h = x.new_zeros(2, rla_channels, 16, 16)
        for i, layer in enumerate(model.layers_of_blocks):
            for t, block in enumerate(layer):
                stride = 2 if i > 0 and t == 0 else 1
                reads = list(model.rla[i].read[t])[-2:] if rla_channels else []
                if i == 2 and t > 0:  # the last convs of the exit flow
                    y = _separable(block.conv, x, h, reads)
                    x = F.relu(y)
                else:
                    y = _separable(block.convs[0], F.relu(x), F.relu(h), reads)
                    for conv in list(block.convs)[1:]:
                        y = _separable(conv, F.relu(y))
                    if stride > 1:
                        ones = F.avg_pool2d(torch.ones_like(y), 3, 2, 1)
                        y = F.avg_pool2d(y, 3, 2, 1) / ones
                    if x.shape[1] != y.shape[1]:
                        down = block.downsample
                        x = F.conv2d(x, down.conv.weight, stride=stride)
                        x = norm(down.norm, x)
                    x = x + y
                if rla_channels:
                    h = recurrence(model.rla[i], t, y, h, stride)
    torch.testing.assert_close(got[0], x)
    if rla_channels:
        torch.testing.assert_close(got[1], h)


def test_blocks_of_one_resolution_form_a_stage() -> None:
    with torch.device('meta'):
        model = RLAXception(out_indices=(0, 1, 2))
    assert [len(layer) for layer in model.layers_of_blocks] == [2, 1 + 8, 1 + 2]


def test_zero_init_residual_is_an_option() -> None:
    def zeroed(model: RLAXception) -> int:
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return sum(bool((norm.weight == 0).all()) for norm in norms)

    model, zero = _build({}), _build({}, zero_init_residual=True)
    model.init_weights()
    zero.init_weights()
    assert zeroed(model) == 0
    # The five blocks with an identity.
    assert zeroed(zero) == 5


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(integration='v5'), r"integration='v5' is not one of 'v1', .*'v4'$"),
        (dict(in_channels=0), r'in_channels=0 is not a positive int'),
        (dict(stem_channels=(4,)), r'stem_channels=\(4,\) needs 2 entries'),
        (dict(entry_channels=(4, 8)), r'entry_channels=\(4, 8\) needs 3 entries'),
        (dict(exit_channels=(4, 8, 0)), r'exit_channels entry=0 is not a positive'),
        (dict(num_middle_blocks=-1), r'num_middle_blocks=-1 is not in the range'),
        (dict(out_indices=(3,)), r'out_indices entry=3 is not in the range 0 to 2'),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLAXception(**{**SMALL, **kwargs})
