# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks of every family, small enough to run in a moment."""

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmrla.models  # noqa: F401 - registers the backbones


@dataclass(frozen=True)
class Case:
    """A network, small enough to run in a moment."""

    name: str
    type: str
    kwargs: Dict[str, Any] = field(default_factory=dict)
    num_stages: int = 4
    stride: int = 32

    def build(self, **kwargs: Any) -> nn.Module:
        """The network with freshly drawn weights."""
        torch.manual_seed(0)
        model = MODELS.build(dict(type=self.type, **self.kwargs, **kwargs))
        model.init_weights()
        return model


def _resnet(name: str, **kwargs: Any) -> Case:
    return Case(
        name,
        'RLAResNet',
        dict(depth=50, base_channels=8, stem_channels=8, rla_channels=4, **kwargs),
    )


def _mobilenet(name: str, **kwargs: Any) -> Case:
    kwargs = dict(widen_factor=0.25, rla_channels=4, **kwargs)
    return Case(name, 'RLAMobileNetV2', kwargs, num_stages=5)


CASES: List[Case] = [
    _resnet('resnet-v1'),
    *[_resnet(f'resnet-{v}', integration=v) for v in ('v2', 'v3', 'v4', 'v5', 'v6')],
    *[_resnet(f'resnet-{c}', cell=c) for c in ('post-act', 'convlstm', 'convgru')],
    _resnet('resnet-unshared', shared=False),
    _resnet('resnet-no-exchange', exchange=False),
    _resnet('resnet-eca', attention=dict(type='ECALayer')),
    _resnet('resnet-se', attention=dict(type='SELayer', ratio=4)),
    _resnet('resnet-cbam', attention=dict(type='CBAM', ratio=4)),
    _resnet('resnet-d', deep_stem=True, avg_down=True),
    _resnet('resnext', groups=4, width_per_group=32),
    _resnet('resnet-dilated', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    _mobilenet('mobilenet'),
    _mobilenet('mobilenet-released', recurrent_conv='depthwise', tied=True),
    _mobilenet('mobilenet-full', recurrent_conv='full'),
    _mobilenet('mobilenet-eca', attention=dict(type='ECALayer', kernel_size=3)),
]
PLAIN = [
    Case('plain-resnet', 'RLAResNet', {**CASES[0].kwargs, 'rla_channels': 0}),
    Case(
        'plain-mobilenet',
        'RLAMobileNetV2',
        dict(widen_factor=0.25, rla_channels=0),
        num_stages=5,
    ),
]

#: What the paper has for CIFAR; the other tests of these are in modules of their own.
CIFAR: List[Case] = [
    *[
        Case(
            f'preact-{v}',
            'RLAPreActResNet',
            dict(
                depth=20,
                bottleneck=True,
                base_channels=4,
                rla_channels=3,
                integration=v,
            ),
            num_stages=3,
        )
        for v in ('v1', 'v3')
    ],
    Case(
        'preact-convlstm',
        'RLAPreActResNet',
        dict(depth=20, base_channels=4, rla_channels=2, cell='convlstm'),
        num_stages=3,
    ),
    Case(
        'xception',
        'RLAXception',
        dict(
            rla_channels=3,
            stem_channels=(4, 6),
            entry_channels=(6, 8, 10),
            num_middle_blocks=1,
            exit_channels=(12, 14, 16),
        ),
        num_stages=3,
    ),
    *[
        Case(
            f'densenet-{sharing}',
            'DenseNetBC',
            dict(depth=22, growth_rate=4, sharing=sharing),
            num_stages=3,
        )
        for sharing in (None, 'lag', 'ordinal')
    ],
]
#: Baselines: networks of mmpretrain and mmdet with a plugin.
BASELINES: List[Case] = [
    Case(
        'attention-resnet',
        'AttentionResNet',
        dict(
            depth=50,
            base_channels=8,
            stem_channels=8,
            attention=dict(type='SELayer', ratio=4),
        ),
    ),
    Case(
        'attention-mobilenet',
        'AttentionMobileNetV2',
        dict(widen_factor=0.25, attention=dict(type='ECALayer', kernel_size=3)),
    ),
    Case('non-local', 'NonLocalResNet', dict(depth=50, base_channels=8)),
]
FAMILIES = [*CASES, *PLAIN, *CIFAR, *BASELINES]

#: One of each family and wiring.
FAST = (
    'resnet-v1',
    'resnet-v3',
    'mobilenet-released',
    'preact-v1',
    'xception',
    'densenet-lag',
)


def each(cases: Collection[Case], fast: Collection[str] = FAST) -> Any:
    """Parametrise ``case``; but for those named the tests are slow ones."""
    return pytest.mark.parametrize(
        'case',
        [
            pytest.param(
                case, id=case.name, marks=() if case.name in fast else pytest.mark.slow
            )
            for case in cases
        ],
    )


def settled(case: Case, **kwargs: Any) -> nn.Module:
    """The network, as near to a trained one as it can be without training.

    Residual branches add a tenth of what they read, and norms are in eval mode with
    the statistics of noise. Otherwise rounding grows from block to block, in a plain
    ResNet too.
    """
    model = case.build(**kwargs)
    for stage in getattr(model, 'stages', []):
        for block in getattr(stage, 'blocks', []):
            if getattr(block, 'last_norm', None) is not None:
                nn.init.constant_(block.last_norm.weight, 0.1)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        # The mean of what it has seen.
        norm.momentum = None  # type: ignore[assignment]
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 128))
    for norm in norms:
        norm.eval()
    return model
