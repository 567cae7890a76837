# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Figure 2: norms of DenseNet's shared 1x1 convs, with a fitted decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import ArrayLike

from ..errors import UserError
from ..models.backbones.densenet_bc import DenseNetBC
from . import plots

__all__ = ['HEAD', 'ExponentialFit', 'draw', 'fit_exponential', 'shared_norms', 'table']

#: Columns of :func:`table`.
HEAD = ('network', 'stage', 'number', 'norm', 'fitted', 'scale', 'rate', 'r_squared')


@dataclass(frozen=True)
class ExponentialFit:
    """The curve scale * exp(-rate * n).

    Attributes:
        scale: Its value at n = 0.
        rate: Rate of its decay.
        r_squared: Share of the variance explained.
    """

    scale: float
    rate: float
    r_squared: float

    def __call__(self, n: Any) -> Any:
        """The curve at n."""
        return self.scale * np.exp(-self.rate * np.asarray(n, dtype=float))


def fit_exponential(n: ArrayLike, values: ArrayLike) -> Optional[ExponentialFit]:
    """Least-squares fit of an exponential (A.2), by SciPy.

    Args:
        n: Lags or ordinals.
        values: Norms, above 0.

    Returns:
        The fit; None for fewer than three points.

    Raises:
        UserError: If SciPy is not installed.
    """
    try:
        from scipy.optimize import curve_fit
    except ImportError:
        raise UserError("fits need SciPy: pip install 'mmrla[look]'") from None
    x, y = np.asarray(n, dtype=float), np.asarray(values, dtype=float)
    if len(x) < 3:
        return None
    # The logarithms' straight line is close enough to start from.
    slope, intercept = np.polyfit(x, np.log(y), 1)
    start = (np.exp(intercept), -slope)
    (scale, rate), _ = curve_fit(lambda x, a, b: a * np.exp(-b * x), x, y, p0=start)
    residual = y - scale * np.exp(-rate * x)
    variance = ((y - y.mean()) ** 2).sum()
    share = 1 - (residual**2).sum() / variance if variance else float('nan')
    return ExponentialFit(float(scale), float(rate), float(share))


def shared_norms(model: Any, p: float = 1.0) -> List[np.ndarray]:
    """Norms of the shared 1x1 convs of a network, an array (n,) for each stage.

    Args:
        model: A classifier with a DenseNet-BC backbone.
        p: The order of the norm. Defaults to 1.

    Raises:
        UserError: If the network shares no 1x1 convs.
    """
    backbone = getattr(model, 'backbone', model)
    if not isinstance(backbone, DenseNetBC):
        raise UserError(
            f'{type(backbone).__name__} shares no 1x1 convs; DenseNetBC with '
            "sharing='lag' or 'ordinal' does"
        )
    try:
        return [norms.numpy() for norms in backbone.shared_weight_norms(p)]
    except ValueError as error:
        raise UserError(str(error)) from None


def table(curves: Mapping[str, Sequence[np.ndarray]]) -> List[Tuple[Any, ...]]:
    """The numbers of the figure, a row for each norm.

    Args:
        curves: Norms by stage, for each network by its name.
    """
    rows: List[Tuple[Any, ...]] = []
    for name, stages in curves.items():
        for stage, norms in enumerate(stages, 1):
            n = np.arange(1, len(norms) + 1)
            fit = fit_exponential(n, norms)
            for number, norm in zip(n, norms):
                fitted: Tuple[Any, ...] = ('',) * 4
                if fit is not None:
                    fitted = (float(fit(number)), fit.scale, fit.rate, fit.r_squared)
                rows.append((name, stage, int(number), float(norm), *fitted))
    return rows


def draw(
    curves: Mapping[str, Sequence[np.ndarray]], axis: Dict[str, str], p: float = 1.0
) -> Any:
    """Norm against lag or ordinal, a panel for each network, a line for each stage.

    Args:
        curves: Norms by stage, for each network by its name.
        axis: What each network's numbers are: 'lag' or 'ordinal'.
        p: The order of the norm, for the label.
    """
    figure, axes = plots.add_figure(
        1, len(curves), (5.2 * len(curves), 4.2), sharey=True
    )
    for ax, (name, stages) in zip(axes[0], curves.items()):
        for i, norms in enumerate(stages):
            n = np.arange(1, len(norms) + 1)
            style = plots.line_style(i)
            fit = fit_exponential(n, norms)
            label = f'stage {i + 1}'
            if fit is not None:
                label += f': $R^2$ = {fit.r_squared:.3f}, rate {fit.rate:.3f}'
                fine = np.linspace(1, len(norms), 100)
                ax.plot(fine, fit(fine), **dict(style, marker=''))
            ax.plot(n, norms, **dict(style, linestyle=''))
            ax.plot([], [], **style, label=label)
        ax.set_title(name)
        ax.set_xlabel(axis[name])
        plots.whole_numbers(ax.xaxis)
        ax.legend(frameon=False, fontsize=9)
    # For all panels, once all are drawn.
    axes[0, 0].set_ylim(0, 1.08 * max(n.max() for s in curves.values() for n in s))
    axes[0, 0].set_ylabel(f'L{p:g} norm of the shared 1x1 weights')
    return figure
