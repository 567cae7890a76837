# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over ResNets: the plain network, arguments, registry scopes."""

from pathlib import Path
from typing import Any, Tuple

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrla.models import RLAResNet

mmdet = pytest.importorskip('mmdet.models')
mmpretrain = pytest.importorskip('mmpretrain.models')

DATA = Path(__file__).parents[4] / 'shared/data'


@pytest.mark.parametrize('depth', [18, 34, 50])
def test_without_hidden_state_it_is_mmdets_resnet(depth: int) -> None:
    ours = RLAResNet(depth, rla_channels=0)
    plain = mmdet.ResNet(depth)
    for p in plain.parameters():
        nn.init.normal_(p, std=0.05)
    assert list(ours.state_dict()) == list(plain.state_dict())
    ours.load_state_dict(plain.state_dict())
    ours.eval()
    plain.eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for a, b in zip(ours(x), plain(x)):
            assert (a - b).abs().max() <= 1e-6 * b.abs().max()


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('name', ['RLAResNet', 'mmrla.RLAResNet'])
def test_a_name_means_the_network_of_the_scope(scope: str, name: str) -> None:
    """With the arguments and defaults of its library."""
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(type=name, depth=50, base_channels=8))
    of_mmpretrain = scope == 'mmpretrain'
    plain = mmpretrain.ResNet if of_mmpretrain else mmdet.ResNet
    assert isinstance(model, plain)
    assert model.out_indices == ((3,) if of_mmpretrain else (0, 1, 2, 3))
    assert model.norm_eval == (not of_mmpretrain)


@pytest.mark.parametrize('out_indices', [(0, -1), (-2,)])
@pytest.mark.parametrize(
    ('library', 'name'),
    [
        ('mmdet', 'ResNet'),
        ('mmdet', 'ResNeXt'),
        ('mmdet', 'ResNetV1d'),
        ('mmpretrain', 'ResNet'),
        ('mmpretrain', 'ResNeXt'),
        ('mmpretrain', 'ResNetV1c'),
        ('mmpretrain', 'ResNetV1d'),
    ],
)
def test_negative_indices_and_frozen_stages_are_upstreams(
    library: str, name: str, out_indices: Tuple[int, ...]
) -> None:
    """Negative indices select no output; ``frozen_stages`` below 0 freezes nothing."""
    kwargs: Any = dict(depth=50, base_channels=8, stem_channels=8, norm_eval=True)
    kwargs.update(out_indices=out_indices, frozen_stages=-3)
    with DefaultScope.overwrite_default_scope(library):
        plain = MODELS.build(dict(type=name, **kwargs))
        model = MODELS.build(dict(type=f'RLA{name}', **kwargs))
    report = model.load_state_dict(plain.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert all(name.startswith('rla.') for name in report.missing_keys)
    for network in (plain, model):
        network.train()
    frozen = {n: p.requires_grad for n, p in plain.named_parameters()}
    modes = {n: m.training for n, m in plain.named_modules()}
    own_frozen = {n: p.requires_grad for n, p in model.named_parameters()}
    own_modes = {n: m.training for n, m in model.named_modules()}
    assert frozen.items() <= own_frozen.items()
    assert modes.items() <= own_modes.items()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        outs, expected = model(x), plain(x)
    assert len(outs) == len(expected) == sum(i >= 0 for i in out_indices)
    for a, b in zip(outs, expected):
        torch.testing.assert_close(a, b)


def _plugin(**kwargs: Any) -> dict:
    plugin = dict(cfg=dict(type='ECALayer'), position='after_conv3')
    return dict(plugins=[{**plugin, **kwargs}])


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (dict(depth=51), ValueError, r'depth=51 is not one of 18, 34, 50, 101, 152'),
        (dict(frozen_stages=5), ValueError, r'frozen_stages=5 is not .* at most 4'),
        (dict(out_indices=(0, 4)), ValueError, r'out_indices entry=4 .* at most 3'),
        (dict(freeze_rla='no'), ValueError, r"freeze_rla='no' is not one of True"),
        (_plugin(position='after_conv4'), ValueError, r"'after_conv4' .*'after_conv1'"),
        (
            _plugin(stages=(True,)),
            ValueError,
            r'stages=\(True,\) needs one .* 4 layers',
        ),
        (dict(plugins=[dict(cfg={})]), ValueError, r"needs 'cfg' and 'position'"),
        (dict(plugins=dict(cfg={})), ValueError, r'is not a list of dicts'),
        (dict(integration='v7'), ValueError, r"integration='v7' is not one of .*'v6'"),
        (dict(cell='gru'), ValueError, r"cell='gru' is not one of .*'convgru'"),
        (
            dict(cell='convlstm', integration='v2'),
            ValueError,
            r"integration='v2' needs cell",
        ),
        (dict(rla_channels=-1), ValueError, r'rla_channels=-1 is not in the range 0'),
        (dict(rla_channels=1.5), ValueError, r'rla_channels=1.5 is not an int'),
        (
            dict(rla_channels=0, return_hidden=True),
            ValueError,
            r'return_hidden=True needs rla',
        ),
        (dict(attention=dict(type='SELayer')), TypeError, "argument 'attention'"),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments(kwargs: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        RLAResNet(**dict(dict(depth=50, base_channels=8), **kwargs))


def test_extra_channels_must_fit_the_bottlenecks() -> None:
    with pytest.raises(ValueError, match='extra_channels=3 is not a multiple of 4'):
        MODELS.build(dict(type='mmpretrain.RLAResNet', depth=50, extra_channels=3))


def _cifar_weights() -> Any:
    path = DATA / 'cifar10_resnet20.th'
    if not path.is_file():
        pytest.skip('needs the trained weights in ../shared/data')
    weights = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    return {name[len('module.') :]: value for name, value in weights.items()}


def test_cifar_resnet_takes_public_weights(tmp_path: Path) -> None:
    """With option A written out; the head takes the layer ``linear``."""
    weights = _cifar_weights()
    torch.save(weights, tmp_path / 'resnet20.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet20.pth'))
    cfg = dict(
        type='ImageClassifier',
        backbone=dict(
            type='RLACIFARResNet',
            depth=20,
            rla_channels=4,
            return_hidden=True,
            init_cfg=init_cfg,
        ),
        neck=dict(type='RLANeck', rla_channels=4),
        head=dict(
            type='RLALinearClsHead',
            num_classes=10,
            in_channels=64,
            rla_channels=4,
            init_cfg=init_cfg,
        ),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg).eval()
    model.init_weights()
    model.eval()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = x
        for i, step in ((1, stride), (2, 1)):
            if i == 2:
                y = y.relu()
            y = torch.conv2d(y, weights[f'{name}.conv{i}.weight'], None, step, 1)
            y = _norm(y, f'{name}.bn{i}')
        if stride == 2:
            half = x.shape[1] // 2
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
        return (x + y).relu()

    def _norm(y: torch.Tensor, name: str) -> torch.Tensor:
        w = {k: weights[f'{name}.{k}'] for k in ('running_mean', 'running_var')}
        scale, shift = weights[f'{name}.weight'], weights[f'{name}.bias']
        return nn.functional.batch_norm(y, **w, weight=scale, bias=shift)

    y = _norm(torch.conv2d(x, weights['conv1.weight'], None, 1, 1), 'bn1').relu()
    for stage in (1, 2, 3):
        for t in range(3):
            y = block(y, f'layer{stage}.{t}', 2 if stage > 1 and t == 0 else 1)
    expected = y.mean((2, 3)) @ weights['linear.weight'].T + weights['linear.bias']
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
