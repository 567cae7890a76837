# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Attention plugins: parameters, equations, use in upstream's networks."""

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
    if layer is not CBAM:  # one weight for a channel
        torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))


def test_eca_equation() -> None:
    layer, x = ECALayer(8, kernel_size=3), torch.randn(1, 8, 4, 4)
    means = torch.nn.functional.pad(x.mean((2, 3))[0], (1, 1))
    weights = torch.stack(
        [(means[c : c + 3] * layer.conv.weight[0, 0]).sum() for c in range(8)]
    )
    expected = x * torch.sigmoid(weights)[None, :, None, None]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ('attention', 'millions'),
    [('SELayer', 26.77), ('CBAM', 26.77), ('ECALayer', 24.37)],
)
def test_mmpretrain_baseline_has_table_3_parameters(
    attention: str, millions: float
) -> None:
    pytest.importorskip('mmpretrain')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(type='AttentionResNet', depth=50, attention=dict(type=attention))
        )
    count = sum(p.numel() for p in model.parameters()) + 2049 * 1000
    assert round(count / 2**20, 2) == millions


def test_mmpretrain_mobilenet_baseline_has_table_3_parameters() -> None:
    """ECA-Net's kernels: 1 in the first four settings, 3 in the others."""
    pytest.importorskip('mmpretrain')
    kernels = [1] * 4 + [3] * 3
    attention = [dict(type='ECALayer', kernel_size=k) for k in kernels]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(type='AttentionMobileNetV2', attention=attention))
    count = sum(p.numel() for p in model.parameters()) + 1281 * 1000
    assert count == 3504872 + 1 * 10 + 3 * 7


@pytest.mark.parametrize('attention', ['SELayer', 'ECALayer', 'CBAM'])
def test_attention_is_applied_before_the_addition(attention: str) -> None:
    """mmpretrain's baseline equals mmdet's ResNet with the same plugin."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmdet')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours = MODELS.build(
            dict(
                type='AttentionResNet',
                depth=50,
                base_channels=8,
                stem_channels=8,
                attention=dict(type=attention, **_small(attention)),
            )
        )
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = MODELS.build(
            dict(
                type='mmdet.ResNet',
                depth=50,
                base_channels=8,
                stem_channels=8,
                norm_eval=False,
                plugins=[
                    dict(
                        cfg=dict(type=attention, **_small(attention)),
                        position='after_conv3',
                    )
                ],
            )
        )
    ours.eval()  # upstream's train() returns None
    theirs.eval()
    abbr = MODELS.get(attention)._abbr_
    theirs.load_state_dict(
        {
            k.replace('drop_path.attention', abbr): v
            for k, v in ours.state_dict().items()
        }
    )
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs(x)[-1])


def _small(attention: str) -> dict:
    return {} if attention == 'ECALayer' else dict(ratio=4)


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
