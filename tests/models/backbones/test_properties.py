# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Shapes and values for drawn images and arguments."""

import math
from typing import Any, Dict, List, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS

import mmrla.models  # noqa: F401 - registers the backbones
from mmrla.models.layers.recurrent import CELLS
from mmrla.models.rla import INTEGRATIONS

examples = settings(
    deadline=None,
    derandomize=True,  # the same examples each time
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=15,
)
many = settings(examples, max_examples=150)

images = st.fixed_dictionaries(
    dict(
        batch=st.integers(1, 3),
        height=st.integers(1, 90),
        width=st.integers(1, 90),
    )
)


def _wiring(draw: Any, versions: Sequence[str] = tuple(INTEGRATIONS)) -> Dict[str, Any]:
    cell = draw(st.sampled_from(CELLS))
    odd = [v for v in versions if INTEGRATIONS[v].before_recurrence]
    integrations = versions if cell == 'conv' else odd
    channels = draw(st.integers(0, 6))
    return dict(
        rla_channels=channels,
        cell=cell,
        integration=draw(st.sampled_from(integrations)),
        shared=draw(st.booleans()),
        exchange=draw(st.booleans()),
        return_hidden=channels > 0 and draw(st.booleans()),
    )


def _indices(draw: Any, stages: int) -> List[int]:
    return sorted(draw(st.sets(st.integers(0, stages - 1), min_size=1)))


@st.composite
def resnets(draw: Any) -> Dict[str, Any]:
    """Arguments of RLAResNet."""
    strides = draw(st.sampled_from([(1, 2, 2, 2), (1, 2, 2, 1), (1, 2, 1, 1)]))
    return dict(
        type='RLAResNet',
        depth=draw(st.sampled_from([18, 50, 50])),
        in_channels=draw(st.sampled_from([1, 3, 4])),
        base_channels=4,
        stem_channels=4 * draw(st.integers(1, 2)),
        strides=strides,
        dilations=tuple(draw(st.sampled_from([1, 2, 3])) for _ in range(4)),
        out_indices=_indices(draw, 4),
        **_wiring(draw),
    )


@st.composite
def mobilenets(draw: Any) -> Dict[str, Any]:
    """Arguments of RLAMobileNetV2."""
    wiring = _wiring(draw, ('v1', 'v2', 'v3', 'v4'))
    if wiring['cell'] == 'conv':
        kinds = ['full', 'depthwise', 'separable']
        wiring['recurrent_conv'] = draw(st.sampled_from(kinds))
    return dict(
        type='mmpretrain.RLAMobileNetV2',
        widen_factor=draw(st.sampled_from([0.1, 0.25])),
        out_indices=_indices(draw, 8),
        **wiring,
    )


@st.composite
def preact_resnets(draw: Any) -> Dict[str, Any]:
    """Arguments of RLAPreActResNet."""
    bottleneck = draw(st.booleans())
    blocks = draw(st.integers(1, 2))
    return dict(
        type='RLAPreActResNet',
        depth=(9 if bottleneck else 6) * blocks + 2,
        bottleneck=bottleneck,
        in_channels=draw(st.sampled_from([1, 3, 4])),
        base_channels=4,
        out_indices=_indices(draw, 3),
        **_wiring(draw),
    )


@st.composite
def xceptions(draw: Any) -> Dict[str, Any]:
    """Arguments of RLAXception."""
    widths = st.integers(2, 8)
    return dict(
        type='RLAXception',
        in_channels=draw(st.sampled_from([1, 3, 4])),
        stem_channels=[draw(widths) for _ in range(2)],
        entry_channels=[draw(widths) for _ in range(3)],
        num_middle_blocks=draw(st.integers(0, 2)),
        exit_channels=[draw(widths) for _ in range(3)],
        out_indices=_indices(draw, 3),
        **_wiring(draw, ('v1', 'v2', 'v3', 'v4')),
    )


@st.composite
def densenets(draw: Any) -> Dict[str, Any]:
    """Arguments of DenseNetBC."""
    return dict(
        type='DenseNetBC',
        depth=6 * draw(st.integers(1, 3)) + 4,
        growth_rate=draw(st.integers(2, 5)),
        in_channels=draw(st.sampled_from([1, 3, 4])),
        sharing=draw(st.sampled_from([None, 'lag', 'ordinal'])),
        out_indices=_indices(draw, 3),
    )


def _strides(kwargs: Dict[str, Any]) -> List[int]:
    """The stride of each stage's output."""
    if kwargs['type'] == 'RLAResNet':
        steps = kwargs['strides']
        return [4 * math.prod(steps[: i + 1]) for i in range(4)]
    if kwargs['type'] == 'mmpretrain.RLAMobileNetV2':
        return [2, 4, 8, 16, 16, 32, 32, 32]
    return [1, 2, 4]


def _holds(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    torch.manual_seed(0)
    model = MODELS.build(dict(kwargs)).eval()
    size = image['batch'], kwargs.get('in_channels', 3), image['height'], image['width']
    x = torch.randn(size)
    with torch.no_grad():
        outs, again = model(x), model(x)
    hidden = kwargs.get('return_hidden', False)
    assert len(outs) == len(kwargs['out_indices']) + hidden
    strides = _strides(kwargs)
    rounds_up = kwargs['type'] != 'DenseNetBC'  # its poolings round down
    for i, out in zip(kwargs['out_indices'], outs):
        steps = strides[i]
        shape = [image['height'], image['width']]
        while steps > 1:
            shape = [-(-s // 2) if rounds_up else s // 2 for s in shape]
            steps //= 2
        assert list(out.shape[2:]) == shape, (i, kwargs)
        assert len(out) == image['batch']
        assert out.isfinite().all()
    if hidden:
        assert outs[-1].shape[1] == kwargs['rla_channels']
        assert outs[-1].shape[2:] == outs[-2].shape[2:]
    # No state is kept between calls.
    for a, b in zip(outs, again):
        assert torch.equal(a, b)
    # Images of a batch do not depend on each other.
    with torch.no_grad():
        alone = model(x[:1])
    for a, b in zip(outs, alone):
        torch.testing.assert_close(a[:1], b, rtol=1e-3, atol=1e-4)


@examples
@given(kwargs=resnets(), image=images)
def test_resnets(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)


@examples
@given(kwargs=mobilenets(), image=images)
def test_mobilenets(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)


@examples
@given(kwargs=preact_resnets(), image=images)
def test_preact_resnets(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)


@examples
@given(kwargs=xceptions(), image=images)
def test_xceptions(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)


@examples
@given(
    kwargs=densenets(),
    # Two poolings that round down need four pixels.
    image=images.filter(lambda i: min(i['height'], i['width']) >= 4),
)
def test_densenets(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)


@pytest.mark.slow
@many
@given(
    kwargs=st.one_of(resnets(), mobilenets(), preact_resnets(), xceptions()),
    image=images,
)
def test_many_more(kwargs: Dict[str, Any], image: Dict[str, int]) -> None:
    _holds(kwargs, image)
