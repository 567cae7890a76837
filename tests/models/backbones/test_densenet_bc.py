# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""DenseNet-BC for CIFAR: counts, mmpretrain's DenseNet, Eq. 9 and Eq. 10."""

from typing import Any, Optional

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import nn

from mmrla.models import DenseNetBC, WiringMismatchError

#: Three layers per block.
SMALL = dict(depth=22, growth_rate=4)
all_sharings = pytest.mark.parametrize('sharing', [None, 'lag', 'ordinal'])
shared_only = pytest.mark.parametrize('sharing', ['lag', 'ordinal'])


def _build(sharing: Optional[str], **kwargs: Any) -> DenseNetBC:
    torch.manual_seed(0)
    cfg = dict(type='DenseNetBC', sharing=sharing, **{**SMALL, **kwargs})
    return MODELS.build(cfg)


def _random_statistics(model: nn.Module) -> None:
    for name, values in [*model.named_buffers(), *model.named_parameters()]:
        if name.endswith(('running_mean', '.bias')):
            nn.init.normal_(values)
        elif name.endswith('running_var'):
            nn.init.uniform_(values, 0.5, 2)


@pytest.mark.parametrize(
    ('sharing', 'parameters', 'table'),
    [(None, 769162, 0.80), ('lag', 587722, 0.60), ('ordinal', 587722, 0.60)],
)
def test_parameters_of_the_classifier(
    sharing: Optional[str], parameters: int, table: float
) -> None:
    """Table 1 to its first digit, as in Huang et al. (0.8M)."""
    with torch.device('meta'):
        model = DenseNetBC(sharing=sharing)
    count = sum(p.numel() for p in model.parameters()) + (342 + 1) * 10
    assert count == parameters
    assert round(count / 1e6, 1) == table


def test_plain_equals_mmpretrains_densenet_after_the_stem() -> None:
    mmpretrain = pytest.importorskip('mmpretrain.models')
    ours = _build(None).eval()
    arch = dict(growth_rate=4, depths=[3, 3, 3], init_channels=8)
    theirs = mmpretrain.DenseNet(arch)
    theirs.eval()
    theirs.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    _random_statistics(ours)
    buffers = [b for b in ours.buffers() if b.dim()]
    theirs_buffers = [b for b in theirs.buffers() if b.dim()]
    with torch.no_grad():
        for own, other in zip(ours.parameters(), theirs.parameters()):
            other.copy_(own)
        for own, other in zip(buffers, theirs_buffers):
            other.copy_(own)
        x = torch.randn(2, 3, 19, 26)
        torch.testing.assert_close(ours(x)[0], theirs(x)[0])
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))


@shared_only
def test_dense_block_is_the_equation(sharing: str) -> None:
    """x_t = Conv3_t(Conv1_t(x_0) + sum_s Conv1_{t-s or s}(x_s)), conv by conv."""
    model = _build(sharing, depth=28).eval()  # four layers
    _random_statistics(model)
    block = model.stages[1]
    # The weights of lag or ordinal number 1, 2, ...; stored in the order of features.
    parts = list(block.shared.conv.weight.detach().split(4, dim=1))
    by_index = dict(enumerate(parts[::-1] if sharing == 'lag' else parts, 1))
    assert len(by_index) == 3
    features = [torch.randn(2, block.layers[0].conv1.in_channels, 5, 6)]
    with torch.no_grad():
        got = block(features[0])
        for t, layer in enumerate(block.layers, 1):
            channels = [f.shape[1] for f in features]
            n = layer.norm1
            a = F.batch_norm(
                torch.cat(features, 1), n.running_mean, n.running_var, n.weight, n.bias
            )
            a_0, *a_s = F.relu(a).split(channels, dim=1)
            total = F.conv2d(a_0, layer.conv1.weight)
            for s, part in enumerate(a_s, 1):
                index = t - s if sharing == 'lag' else s
                total = total + F.conv2d(part, by_index[index])
            n = layer.norm2
            a = F.batch_norm(total, n.running_mean, n.running_var, n.weight, n.bias)
            features.append(F.conv2d(F.relu(a), layer.conv2.weight, padding=1))
    torch.testing.assert_close(got, torch.cat(features, 1))


@shared_only
def test_norms_are_in_order_of_lag_or_ordinal(sharing: str) -> None:
    model = _build(sharing, depth=28)
    width, growth = 16, 4
    with torch.no_grad():
        for stage in model.stages:
            # The part for x_s in the weight for x_1, x_2 and x_3.
            stage.shared.conv.weight.copy_(
                torch.tensor([1.0, 2.0, 3.0])
                .repeat_interleave(growth)[None, :, None, None]
                .expand(width, -1, 1, 1)
            )
    last = model.stages[0].shared.weight(1)  # the weight for x_1 of layer 2
    assert last.unique().tolist() == [3.0 if sharing == 'lag' else 1.0]
    ones = width * growth
    expected = torch.tensor([1.0, 2.0, 3.0]) * ones
    if sharing == 'lag':
        expected = expected.flip(0)
    norms = model.shared_weight_norms()
    assert len(norms) == 3
    for norm in norms:
        assert not norm.requires_grad
        torch.testing.assert_close(norm, expected)
    euclid = model.shared_weight_norms(p=2)[0]
    torch.testing.assert_close(euclid, expected / ones**0.5)


def test_norms_need_shared_convs() -> None:
    with pytest.raises(ValueError, match='sharing=None, depth=22: no 1x1 conv'):
        _build(None).shared_weight_norms()
    with pytest.raises(ValueError, match="sharing='lag', depth=10: no 1x1 conv"):
        _build('lag', depth=10).shared_weight_norms()


def test_weights_of_the_other_sharing_are_refused() -> None:
    weights = _build('lag').state_dict()
    with pytest.raises(
        WiringMismatchError, match="'lag', this network has .*'ordinal'"
    ):
        _build('ordinal').load_state_dict(weights, strict=False)


def test_shared_convs_are_drawn_by_fan_out() -> None:
    model = _build('lag')
    model.init_weights()
    weight = model.stages[0].shared.conv.weight
    assert weight.std().item() == pytest.approx((2 / len(weight)) ** 0.5, rel=0.2)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (
            dict(sharing='layer'),
            r"sharing='layer' is not one of None, 'lag', 'ordinal'",
        ),
        (dict(depth=50), r'depth=50 is not 6n \+ 4 \(40, 100'),
        (dict(depth=4), r'depth=4 is not 6n \+ 4'),
        (dict(depth=100.0), r'depth=100.0 is not a positive int'),
        (dict(growth_rate=0), r'growth_rate=0 is not a positive int'),
        (dict(in_channels=0), r'in_channels=0 is not a positive int'),
        (dict(compression=0), r'compression=0 is not above 0 and at most 1'),
        (dict(out_indices=(3,)), r'out_indices=\(3,\) must be indices from 0 to 2'),
        (dict(out_indices=()), r'out_indices=\(\) must be indices from 0 to 2'),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseNetBC(**kwargs)
