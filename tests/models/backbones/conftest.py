# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Networks of every family, small enough to run in a moment."""

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmrla.models.backbones.mobilenet_v2 import convs_of


@dataclass(frozen=True)
class Case:
    """A backbone with its arguments.

    Attributes:
        name: Name of the case.
        type: Type of the backbone.
        kwargs: Arguments of the backbone.
        last: Index of its last output.
        stages: Number of its stages, without ``conv2`` of MobileNetV2.
    """

    name: str
    type: str
    kwargs: Dict[str, Any] = field(default_factory=dict)
    last: int = 3
    stages: int = 4

    @property
    def rla_channels(self) -> int:
        """Channels of the hidden state; 0 for none."""
        return self.kwargs.get('rla_channels', 0)

    def build(self, idle: bool = False, **kwargs: Any) -> Any:
        """Build the network and draw its weights.

        Args:
            idle: Whether residual branches may start at zero, which makes most
                gradients zero. Defaults to False.
            **kwargs: Further arguments; ``out_indices`` is the last one by default.
        """
        torch.manual_seed(0)
        kwargs = {'out_indices': (self.last,), **self.kwargs, **kwargs}
        model = MODELS.build(dict(type=self.type, **kwargs))
        model.init_weights()
        for module in model.modules() if not idle else ():
            if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
                nn.init.ones_(module.weight)
        return model


def _resnet(name: str, form: str = 'mmdet', **kwargs: Any) -> Case:
    small = dict(depth=50, base_channels=8, stem_channels=8, rla_channels=4)
    type_ = 'RLAResNet' if form == 'mmdet' else 'mmpretrain.RLAResNet'
    kwargs = {'type': type_, 'norm_eval': False, **small, **kwargs}
    return Case(name, kwargs.pop('type'), kwargs)


def _mobilenet(name: str, form: str = 'mmpretrain', **kwargs: Any) -> Case:
    kwargs = dict(widen_factor=0.25, rla_channels=4, **kwargs)
    type_ = 'RLAMobileNetV2' if form == 'mmdet' else 'mmpretrain.RLAMobileNetV2'
    return Case(name, type_, kwargs, last=7, stages=7)


def _plugin(layer: str, **kwargs: Any) -> dict:
    return dict(plugins=[dict(cfg=dict(type=layer, **kwargs), position='after_conv3')])


RESNETS: List[Case] = [
    _resnet('resnet-v1'),
    *[_resnet(f'resnet-{v}', integration=v) for v in ('v2', 'v3', 'v4', 'v5', 'v6')],
    *[_resnet(f'resnet-{c}', cell=c) for c in ('post-act', 'convlstm', 'convgru')],
    _resnet('resnet-unshared', shared=False),
    _resnet('resnet-no-exchange', exchange=False),
    _resnet('resnet18', depth=18),
    _resnet('resnet-caffe', style='caffe'),
    _resnet('resnet-eca', **_plugin('ECALayer')),
    _resnet('resnet-d', type='RLAResNetV1d'),
    _resnet('resnext', type='RLAResNeXt', groups=4, base_width=4),
    _resnet('resnet-dilated', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    Case(
        'regnet',
        'RLARegNet',
        dict(
            arch=dict(w0=8, wa=8.0, wm=2.0, group_w=4, depth=9, bot_mul=1.0),
            base_channels=8,
            rla_channels=4,
            norm_eval=False,
        ),
    ),
    _resnet('res2net', type='RLARes2Net', scales=2, base_width=64),
    _resnet('resnest', type='RLAResNeSt', groups=2),
    _resnet('mmpretrain-seresnet', type='mmpretrain.RLASEResNet', se_ratio=4),
    _resnet('mmpretrain-resnet', form='mmpretrain'),
    _resnet('mmpretrain-se', form='mmpretrain', **_plugin('SELayer', ratio=4)),
    _resnet('mmpretrain-cbam', form='mmpretrain', **_plugin('CBAM', ratio=4)),
    _resnet('mmpretrain-wider', form='mmpretrain', extra_channels=8),
    Case(
        'cifar-resnet',
        'mmpretrain.RLACIFARResNet',
        dict(depth=20, base_channels=4, stem_channels=4, rla_channels=3),
        last=2,
        stages=3,
    ),
]
MOBILENETS: List[Case] = [
    _mobilenet('mobilenet'),
    _mobilenet('mobilenet-v3', integration='v3'),
    _mobilenet('mobilenet-released', recurrent_conv='depthwise', tied=True),
    _mobilenet('mobilenet-full', recurrent_conv='full'),
    _mobilenet('mobilenet-eca', **_plugin('ECALayer', kernel_size=3)),
    _mobilenet('mobilenet-mmdet', form='mmdet'),
]
_BOTTLENECK: Dict[str, Any] = dict(
    depth=20, bottleneck=True, base_channels=4, rla_channels=3
)
_BASIC: Dict[str, Any] = dict(depth=20, base_channels=4, rla_channels=2)
_XCEPTION: Dict[str, Any] = dict(
    stem_channels=(4, 6),
    entry_channels=(6, 8, 10),
    num_middle_blocks=1,
    exit_channels=(12, 14, 16),
)


def _cifar(name: str, type_: str, kwargs: Dict[str, Any], **more: Any) -> Case:
    return Case(name, type_, {**kwargs, **more}, last=2, stages=3)


CIFAR: List[Case] = [
    *[
        _cifar(f'preact-{v}', 'RLAPreActResNet', _BOTTLENECK, integration=v)
        for v in ('v1', 'v2', 'v3', 'v4', 'v5', 'v6')
    ],
    _cifar('preact-basic', 'RLAPreActResNet', _BASIC),
    *[
        _cifar(f'preact-{cell}', 'RLAPreActResNet', _BASIC, cell=cell)
        for cell in ('post-act', 'convlstm', 'convgru')
    ],
    _cifar('preact-unshared', 'RLAPreActResNet', _BOTTLENECK, shared=False),
    _cifar('preact-no-exchange', 'RLAPreActResNet', _BOTTLENECK, exchange=False),
    _cifar('preact-eca', 'RLAPreActResNet', _BASIC, **_plugin('ECALayer')),
    *[
        _cifar(f'xception-{v}', 'RLAXception', _XCEPTION, rla_channels=3, integration=v)
        for v in ('v1', 'v2', 'v3')
    ],
    _cifar('xception-lstm', 'RLAXception', _XCEPTION, rla_channels=3, cell='convlstm'),
]
PLAIN: List[Case] = [
    _resnet('plain-resnet', rla_channels=0),
    Case(
        'plain-mobilenet',
        'mmpretrain.RLAMobileNetV2',
        dict(widen_factor=0.25, rla_channels=0),
        last=7,
        stages=7,
    ),
    _cifar('plain-preact', 'RLAPreActResNet', _BOTTLENECK, rla_channels=0),
    _cifar(
        'plain-preact-wider',
        'RLAPreActResNet',
        _BASIC,
        rla_channels=0,
        extra_channels=3,
    ),
    _cifar(
        'plain-dual-path',
        'RLAPreActResNet',
        _BOTTLENECK,
        rla_channels=0,
        dense_channels=3,
    ),
    _cifar('plain-xception', 'RLAXception', _XCEPTION, rla_channels=0),
    *[
        _cifar(
            f'densenet-{sharing}',
            'DenseNetBC',
            dict(depth=22, growth_rate=4, sharing=sharing),
        )
        for sharing in (None, 'lag', 'ordinal')
    ],
]
CASES: List[Case] = [*RESNETS, *MOBILENETS, *CIFAR]
FAMILIES = [*CASES, *PLAIN]

#: One of each family and wiring.
FAST = (
    'resnet-v1',
    'resnet-v3',
    'mobilenet-released',
    'preact-v1',
    'xception-v1',
    'densenet-lag',
)

#: ``FAST`` and one of each class, block, cell and form of sharing.
COVERING = (
    *FAST,
    'resnet-convlstm',
    'resnet-unshared',
    'resnet-no-exchange',
    'resnet18',
    'resnext',
    'regnet',
    'res2net',
    'resnest',
    'mmpretrain-resnet',
    'mmpretrain-seresnet',
    'cifar-resnet',
    'mobilenet',
    'preact-basic',
    'preact-convgru',
    'plain-resnet',
    'plain-dual-path',
)


def each(cases: Collection[Case], fast: Collection[str] = FAST) -> Any:
    """Parametrise ``case``; tests of cases not named in ``fast`` are slow ones."""
    return pytest.mark.parametrize(
        'case',
        [
            pytest.param(
                case, id=case.name, marks=() if case.name in fast else pytest.mark.slow
            )
            for case in cases
        ],
    )


def settled(case: Case, **kwargs: Any) -> Any:
    """Build a network that behaves like a trained one.

    The last norm of each residual branch has a weight of 0.1, and norms are in eval
    mode with the statistics of noise. Otherwise rounding errors would grow from block
    to block, in a plain ResNet too.
    """
    model = case.build(idle=True, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():
            nn.init.constant_(module.weight, 0.1)
        if hasattr(module, 'norm3'):  # mmdet's ResNeXt does not start at zero
            nn.init.constant_(module.norm3.weight, 0.1)
        if getattr(module, 'use_res_connect', getattr(module, 'with_res_shortcut', 0)):
            nn.init.constant_(convs_of(module)[-1].norm.weight, 0.1)
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        # Statistics are means over all batches.
        norm.momentum = None  # type: ignore[assignment]
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 128))
    for norm in norms:
        norm.eval()
    return model
