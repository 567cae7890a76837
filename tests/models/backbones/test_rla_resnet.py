# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-ResNet's own: counts, the plain network, arguments, registry scopes."""

from typing import Any, Dict

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from mmrla.checkpoints import WiringMismatchError
from mmrla.models import RLAResNet


@pytest.mark.parametrize(
    ('depth', 'published'), [(50, 24.67), (101, 42.92), (152, 57.96)]
)
def test_parameters_of_the_classifier(depth: int, published: float) -> None:
    """Table 3, in units of 2**20; 25,870,696 is the exact count of the first."""
    with torch.device('meta'):
        model = RLAResNet(depth, return_hidden=True)
    count = sum(p.numel() for p in model.parameters())
    count += 2 * 32 + (2048 + 32 + 1) * 1000  # the neck's norm and the classifier
    assert round(count / 2**20, 2) == published
    if depth == 50:
        assert count == 25870696


def test_without_hidden_state_it_is_the_plain_resnet() -> None:
    mmpretrain = pytest.importorskip('mmpretrain.models')
    ours = RLAResNet(50, rla_channels=0, out_indices=(0, 1, 2, 3)).eval()
    plain = mmpretrain.ResNet(50, out_indices=(0, 1, 2, 3))
    plain.eval()  # upstream's train() returns None
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.05)
    ours.load_state_dict(_with_blocks(plain.state_dict()))
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for a, b in zip(ours(x), plain(x)):
            torch.testing.assert_close(a, b)


def _with_blocks(weights: dict) -> dict:
    return {
        k[:7] + 'blocks.' + k[7:] if k.startswith('layer') else k: v
        for k, v in weights.items()
    }


def test_paper_and_released_wiring_differ() -> None:
    torch.manual_seed(0)
    paper = RLAResNet(50, base_channels=8, rla_channels=4, zero_init_residual=False)
    released = RLAResNet(50, base_channels=8, rla_channels=4, integration='v3')
    weights = {k: v for k, v in paper.state_dict().items() if not k.endswith('.wiring')}
    released.load_state_dict(weights, strict=False)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(paper.eval()(x)[0], released.eval()(x)[0])


def test_weights_of_another_wiring_are_refused() -> None:
    paper = RLAResNet(50, base_channels=8, rla_channels=4)
    released = RLAResNet(50, base_channels=8, rla_channels=4, integration='v3')
    for strict in (True, False):
        with pytest.raises(WiringMismatchError, match="integration='v1'.*'v3'"):
            released.load_state_dict(paper.state_dict(), strict=strict)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmpretrain'])
@pytest.mark.parametrize('name', ['RLAResNet', 'mmrla.RLAResNet'])
def test_builds_from_every_scope(scope: str, name: str) -> None:
    if scope != 'mmengine':
        pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(ConfigDict(type=name, depth=50, base_channels=8))
    assert type(model) is RLAResNet


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=18), r'depth=18 is not one of 50, 101, 152'),
        (dict(integration='v7'), r"integration='v7' is not one of 'v1', .*'v6'"),
        (dict(cell='gru'), r"cell='gru' is not one of 'conv', .*'convgru'"),
        (dict(cell='convlstm', integration='v2'), r"integration='v2' needs cell"),
        (dict(rla_channels=-1), r'rla_channels=-1 is not in the range 0 to'),
        (dict(rla_channels=1.5), r'rla_channels=1.5 is not an int'),
        (dict(out_indices=(4,)), r'out_indices entry=4 is not in the range 0 to 3'),
        (dict(out_indices=(2, 1)), r'must be increasing stage indices from 0 to 3'),
        (dict(out_indices=()), r'must be increasing stage indices'),
        (dict(frozen_stages=5), r'frozen_stages=5 is not in the range -1 to 4'),
        (dict(base_channels=0), r'base_channels=0 is not a positive int'),
        (dict(groups=0), r'groups=0 is not a positive int'),
        (dict(extra_channels=3), r'extra_channels=3 is not a multiple of 4'),
        (dict(num_stages=5), r'num_stages=5 is not in the range 1 to 4'),
        (dict(strides=(1, 2)), r'strides=\(1, 2\) needs one entry for each of the 4'),
        (dict(dilations=(1, 0, 1, 1)), r'dilations entry=0 is not a positive int'),
        (dict(drop_path_rate=1.0), r'drop_path_rate=1.0 is not in the range'),
        (dict(attention='ECALayer'), r"attention='ECALayer' must be None, a config"),
        (dict(attention=dict(type='Nope')), r"attention type 'Nope' is not registered"),
        (dict(attention=dict(type='ECALayer', kernel_size=4)), r'kernel_size=4 is not'),
        (dict(rla_channels=0, return_hidden=True), r'return_hidden=True needs rla'),
    ],
    ids=lambda v: str(v)[:40] if isinstance(v, dict) else '',
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RLAResNet(**dict(dict(depth=50, base_channels=8), **kwargs))


def test_drop_path_leaves_the_hidden_state_alone() -> None:
    torch.manual_seed(0)
    kwargs: Dict[str, Any] = dict(
        depth=50,
        base_channels=8,
        num_stages=1,
        return_hidden=True,
        strides=(1,),
        dilations=(1,),
        zero_init_residual=False,
        norm_eval=True,
    )
    model = RLAResNet(drop_path_rate=0.9, **kwargs).train()
    plain = RLAResNet(**kwargs).train()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(8, 3, 32, 32)
    first = model.layer1.step(0, model.forward_stem(x), None)
    expected = plain.layer1.step(0, plain.forward_stem(x), None)
    torch.testing.assert_close(first[1][0], expected[1][0])
