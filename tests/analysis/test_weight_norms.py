# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Figure 2: weight norms and their exponential fits."""

import numpy as np
import pytest
import torch

pytest.importorskip('scipy')

from mmrla.analysis import weight_norms
from mmrla.errors import UserError
from mmrla.models import DenseNetBC, RLAResNet


def test_fit_of_exact_exponential() -> None:
    n = np.arange(1, 16)
    fit = weight_norms.fit_exponential(n, 7.5 * np.exp(-0.31 * n))
    assert fit is not None
    assert fit.scale == pytest.approx(7.5)
    assert fit.rate == pytest.approx(0.31)
    assert fit.r_squared == pytest.approx(1)
    np.testing.assert_allclose(fit([0, 2]), [7.5, 7.5 * np.exp(-0.62)])


def test_r_squared() -> None:
    n, rng = np.arange(1, 40), np.random.default_rng(0)
    values = 5 * np.exp(-0.2 * n) + rng.normal(0, 0.2, len(n))
    fit = weight_norms.fit_exponential(n, np.abs(values))
    assert fit is not None
    left = ((np.abs(values) - fit(n)) ** 2).mean()
    assert fit.r_squared == pytest.approx(1 - left / np.abs(values).var())
    assert 0.8 < fit.r_squared < 1
    assert fit.rate == pytest.approx(0.2, abs=0.05)


def test_two_points_are_too_few_for_fit() -> None:
    assert weight_norms.fit_exponential([1, 2], [3.0, 2.0]) is None


@pytest.mark.parametrize('sharing', ['lag', 'ordinal'])
def test_norms_of_known_weights(sharing: str) -> None:
    """Weights of size 1/n for lag (or ordinal) n have norms in that ratio."""
    model = DenseNetBC(depth=34, growth_rate=4, sharing=sharing)
    for stage in model.stages:
        sizes = [1 / n for n in range(1, 5)]
        if sharing == 'lag':
            sizes = sizes[::-1]  # features are concatenated oldest first
        for i, size in enumerate(sizes):
            torch.nn.init.constant_(
                stage.shared.conv.weight.data[:, 4 * i : 4 * i + 4], -size
            )
    norms = weight_norms.shared_norms(model)
    assert len(norms) == 3
    # 16 outputs and 4 inputs have 64 weights.
    for stage_norms in norms:
        np.testing.assert_allclose(stage_norms, [64, 32, 64 / 3, 16], rtol=1e-6)
    np.testing.assert_allclose(
        weight_norms.shared_norms(model, 2)[0], [8, 4, 8 / 3, 2], rtol=1e-6
    )

    rows = weight_norms.table({'net': norms})
    assert len(rows) == 12
    first = dict(zip(weight_norms.HEAD, rows[0]))
    fit = weight_norms.fit_exponential([1, 2, 3, 4], norms[0])
    assert fit is not None
    assert first['network'], first['stage'] == ('net', 1)
    assert first['norm'] == pytest.approx(64)
    assert first['fitted'] == pytest.approx(float(fit(1)))
    assert (first['scale'], first['rate']) == (fit.scale, fit.rate)


@pytest.mark.parametrize(
    'model, words',
    [
        (RLAResNet(50, base_channels=8), 'RLAResNet shares no 1x1 convs'),
        (DenseNetBC(depth=22), 'sharing=None'),
    ],
)
def test_networks_without_shared_convs(model: torch.nn.Module, words: str) -> None:
    with pytest.raises(UserError, match=words):
        weight_norms.shared_norms(model)


def test_figure_shows_all_points() -> None:
    curves = {'low': [np.array([1.0, 0.5, 0.2])], 'high': [np.array([9.0, 8.0, 7.0])]}
    figure = weight_norms.draw(curves, dict(low='lag', high='ordinal'))
    for ax, name in zip(figure.axes, curves):
        low, high = ax.get_ylim()
        assert low == 0
        assert high > 9
        assert ax.get_title() == name
    assert [ax.get_xlabel() for ax in figure.axes] == ['lag', 'ordinal']
