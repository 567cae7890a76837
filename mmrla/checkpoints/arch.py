# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Which network the weights of a released file belong to.

What names and shapes show (depth, widths, groups, attention, hidden channels,
kind of cell, whether C1 and C3 are shared, whether blocks read the hidden state)
is read from them. The rest, the wiring, follows from the released code's name of
the network, which is also checked against what was read.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from ..models.backbones import RLAMobileNetV2, RLAResNet
from ..models.layers import ECALayer
from .files import CheckpointError
from .published import PUBLISHED

Shape = Tuple[int, ...]

#: Ending of a name that asks for the paper's wiring.
RESIDUAL = '@residual'

NAMES = (
    'rla_resnet{50,101,152}, rla_resnext{50,101}_32x4d (each also with _eca or _se), '
    'dsrla_mobilenetv2_kN, rla_mobilenetv2_kN (also with _eca), '
    '{rlav1..rlav6,rlav1p,rlaus,rlarh,rlalstm,rlagru}_resnet{50,101}, resnet50_k; '
    f'with {RESIDUAL} for the true residual'
)


@dataclass(frozen=True)
class Variant:
    """What the released code computes under one name.

    Attributes:
        integration: What the released code computes.
        residual: The same with the true residual: the released block adds the
            identity to it in place before it reaches C1.
        cell: One of :data:`mmrla.models.rla.CELLS`.
        shared: Whether the blocks of a stage share C1 and C3.
        exchange: Whether blocks read the hidden state.
        act: Activation of the last state; None (and no BN) for its own value.
    """

    integration: str = 'v3'
    residual: str = 'v1'
    cell: str = 'conv'
    shared: bool = True
    exchange: bool = True
    act: Optional[str] = 'ReLU'


#: First part of the released names -> what is computed.
VARIANTS: Dict[str, Variant] = {
    'rla': Variant(),
    'rlav1': Variant(act='Tanh'),
    'rlav2': Variant('v4', 'v2'),
    'rlav3': Variant('v3', 'v3'),
    'rlav4': Variant('v4', 'v4'),
    'rlav5': Variant('v5', 'v5'),
    'rlav6': Variant('v6', 'v6'),
    'rlav1p': Variant(cell='post-act', act=None),
    'rlaus': Variant('v1', 'v1', shared=False),
    'rlarh': Variant(exchange=False),
    'rlalstm': Variant(cell='convlstm', act=None),
    'rlagru': Variant(cell='convgru', act=None),
}
#: MobileNetV2 keeps the true residual.
MOBILENET = Variant('v1', 'v1', act='ReLU6')
#: C3 of MobileNetV2 -> first part of its released name.
MOBILENET_PREFIX = {'depthwise': 'dsrla', 'full': 'rla'}

#: Attention: what it is called in released names -> our module.
ATTENTIONS = {'eca': 'ECALayer', 'se': 'SELayer'}


class UnknownArchError(CheckpointError):
    """A name that is none of the released code's networks."""


@dataclass(frozen=True)
class ArchName:
    """The parts of a released name; None where it says nothing."""

    text: str
    variant: Optional[str]
    family: str
    depth: Optional[int]
    groups: int
    attention: Optional[str]
    wider: bool
    rla_channels: Optional[int]
    residual: bool


def parse_name(name: str) -> ArchName:
    """Take a released name, or a published file's, apart.

    Raises:
        UnknownArchError: If it is none.
    """
    text = {entry.name: entry.arch for entry in PUBLISHED}.get(name, name)
    stem = text[: -len(RESIDUAL)] if text.endswith(RESIDUAL) else text
    match = re.fullmatch(
        r'(?:([a-z0-9]+)_)?(?:(resnet|resnext)(\d+)|mobilenetv2)((?:_[a-z0-9]+)*)', stem
    )
    variant = match[1] if match else None
    parts = match[4].split('_')[1:] if match else []
    known = {'32x4d', *ATTENTIONS}
    counts = [part for part in parts if re.fullmatch(r'k\d*', part)]
    family = 'resnet' if match and match[2] else 'mobilenet_v2'
    if (
        match is None
        or variant not in (None, 'dsrla', *VARIANTS)
        or (variant == 'dsrla' and family == 'resnet')
        or not {*parts} <= known | {*counts}
        or len(counts) > 1
    ):
        raise UnknownArchError(f'{name!r} names no released network; there are {NAMES}')
    count = counts[0][1:] if counts else ''
    return ArchName(
        text=text,
        variant=variant,
        family=family,
        depth=int(match[3]) if match[3] else None,
        groups=32 if '32x4d' in parts or match[2] == 'resnext' else 1,
        attention=next((a for a in ATTENTIONS if a in parts), None),
        wider=bool(counts) and variant is None,
        rla_channels=0 if variant is None else int(count) if count else None,
        residual=text != stem,
    )


@dataclass(frozen=True)
class ReleasedArch:
    """A network of the released code, and how this package builds it.

    Attributes:
        name: The released code's name, with ``@residual`` for the true residual.
        family: 'resnet' or 'mobilenet_v2'.
        blocks: Blocks of each ResNet stage or inverted-residual setting.
        channels: Output channels of each stage of our backbone.
        rla_channels: Channels k of the hidden state; 0 for a plain network.
        args: Arguments of our backbone's class, the wiring's excepted.
        variant: The wiring.
        attention: 'eca', 'se' or None.
        last_conv: Channels of MobileNetV2's last conv, None for a ResNet.
        num_classes: Of the classifier; None if there is none.
    """

    name: str
    family: str
    blocks: Tuple[int, ...]
    channels: Tuple[int, ...]
    rla_channels: int
    args: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant = Variant()
    attention: Optional[str] = None
    last_conv: Optional[int] = None
    num_classes: Optional[int] = None

    @property
    def integration(self) -> str:
        """How the weights are used: what the released code computes, or v1."""
        residual = self.name.endswith(RESIDUAL)
        return self.variant.residual if residual else self.variant.integration

    @property
    def wiring(self) -> Dict[str, Optional[str]]:
        """What the names and shapes of the weights do not show."""
        if not self.rla_channels:
            return {}
        return dict(
            integration=self.integration, cell=self.variant.cell, act=self.variant.act
        )

    @property
    def is_usual(self) -> bool:
        """Whether widths and stem are those of the networks with configs."""
        usual = {'depth', 'groups', 'width_per_group', 'recurrent_conv', 'tied'}
        return self.rla_channels == 32 and {*self.args} <= {*usual, 'attention'}

    def backbone_cfg(self, task: str = 'cls') -> Dict[str, Any]:
        """Config of the backbone for ``task`` 'cls' or 'det'."""
        type_ = 'RLAResNet' if self.family == 'resnet' else 'RLAMobileNetV2'
        cfg = dict(type=type_, **self.args, rla_channels=self.rla_channels)
        if self.rla_channels:
            cfg['integration'] = self.integration
            default = Variant()
            for name in ('cell', 'shared', 'exchange'):
                if getattr(self.variant, name) != getattr(default, name):
                    cfg[name] = getattr(self.variant, name)
        stages = len(self.channels)
        if task == 'det':
            cfg['out_indices'] = tuple(range(stages - 4, stages))
            cfg.update(frozen_stages=1, norm_eval=True)
        else:
            cfg.update(out_indices=(stages - 1,), return_hidden=self.rla_channels > 0)
        return cfg

    def neck_cfg(self) -> Dict[str, Any]:
        """Config of the classifier's neck."""
        if not self.rla_channels and self.last_conv is None:
            return dict(type='GlobalAveragePooling')
        cfg: Dict[str, Any] = dict(type='RLANeck', rla_channels=self.rla_channels)
        if self.last_conv is not None:
            cfg.update(in_channels=self.channels[-1], out_channels=self.last_conv)
        if self.variant.act is None:
            cfg.update(norm_cfg=None, act_cfg=None)
        elif self.variant.act != 'ReLU':
            cfg['act_cfg'] = dict(type=self.variant.act)
        return cfg

    def classifier_cfg(self) -> Dict[str, Any]:
        """Config of the classifier, for mmpretrain.

        Raises:
            CheckpointError: If the weights have no classifier.
        """
        if self.num_classes is None:
            raise CheckpointError('the weights have no classifier (fc or classifier.1)')
        return dict(
            type='ImageClassifier',
            backbone=self.backbone_cfg('cls'),
            neck=self.neck_cfg(),
            head=dict(
                type='LinearClsHead',
                num_classes=self.num_classes,
                in_channels=self.last_conv or self.channels[-1] + self.rla_channels,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
                topk=(1, 5) if self.num_classes >= 5 else (1,),
            ),
        )


@dataclass
class _Seen:
    """What names and shapes show; the fields are those of ReleasedArch."""

    family: str
    blocks: Tuple[int, ...]
    channels: Tuple[int, ...]
    rla_channels: int
    args: Dict[str, Any]
    cell: str
    shared: bool
    exchange: bool
    attention: Optional[str]
    has_last_norm: bool
    last_conv: Optional[int] = None
    num_classes: Optional[int] = None


def recognise(shapes: Mapping[str, Shape], name: Optional[str] = None) -> ReleasedArch:
    """The network that weights belong to.

    Args:
        shapes: Names, as :func:`mmrla.checkpoints.names.canonical_names` gives
            them, and shapes of the weights.
        name: The released code's name of the network, or a published file's. By
            default the published network that has such weights, or the ablation.

    Raises:
        UnknownArchError: If ``name`` is no released network.
        CheckpointError: If the weights belong to no network that is known, or
            not to ``name``.
    """
    named = None if name is None else parse_name(name)
    if 'conv1.0.weight' in shapes:
        seen = _see_mobilenet(shapes)
    elif 'stages.0.0.conv1.weight' in shapes:
        seen = _see_resnet(shapes)
    else:
        raise CheckpointError(
            'no weights of a released network: neither stages.0.0.conv1.weight '
            '(ResNet) nor conv1.0.weight (MobileNetV2) is there'
        )
    if named is None:
        named = parse_name(_guess_name(seen))
    _check_name(named, seen)
    if seen.family == 'mobilenet_v2':
        variant = MOBILENET
    else:
        variant = VARIANTS[named.variant or 'rla']
    return ReleasedArch(
        name=named.text,
        family=seen.family,
        blocks=seen.blocks,
        channels=seen.channels,
        rla_channels=seen.rla_channels,
        args=seen.args,
        variant=variant,
        attention=seen.attention,
        last_conv=seen.last_conv,
        num_classes=seen.num_classes,
    )


def _guess_name(seen: _Seen) -> str:
    k = seen.rla_channels
    attention = f'_{seen.attention}' if seen.attention else ''
    if seen.family == 'mobilenet_v2':
        if not k:
            return f'mobilenetv2{attention}'
        prefix = MOBILENET_PREFIX[seen.args['recurrent_conv']]
        return f'{prefix}_mobilenetv2_k{k}{attention}'
    depth = seen.args['depth']
    net = f'resnext{depth}_32x4d' if 'groups' in seen.args else f'resnet{depth}'
    net += attention
    if not k:
        return net + ('_k' if 'extra_channels' in seen.args else '')
    # Without a last BN the plain cell is the post-activated one; a detector's
    # backbone needs none.
    cell = seen.cell
    if cell == 'conv' and not seen.has_last_norm and seen.num_classes is not None:
        cell = 'post-act'
    for prefix, variant in VARIANTS.items():
        if (variant.cell, variant.shared, variant.exchange) == (
            cell,
            seen.shared,
            seen.exchange,
        ):
            return f'{prefix}_{net}'
    raise CheckpointError(
        f'no released network has cell={cell!r}, shared={seen.shared}, '
        f'exchange={seen.exchange}'
    )


def _check_name(named: ArchName, seen: _Seen) -> None:
    """Compare a name with what the weights show."""
    args = seen.args
    pairs: List[Tuple[str, Any, Any]] = [
        ('family', named.family, seen.family),
        ('attention', named.attention, seen.attention),
    ]
    if named.rla_channels is not None:
        pairs.append(('rla_channels', named.rla_channels, seen.rla_channels))
    if named.family == seen.family == 'resnet':
        pairs += [
            ('depth', named.depth, args['depth']),
            ('groups', named.groups, args.get('groups', 1)),
            ('wider', named.wider, 'extra_channels' in args),
        ]
        if named.variant is not None and seen.rla_channels:
            variant = VARIANTS[named.variant]
            cell = 'conv' if variant.cell == 'post-act' else variant.cell
            pairs += [
                ('cell', cell, seen.cell),
                ('shared', variant.shared, seen.shared),
                ('exchange', variant.exchange, seen.exchange),
            ]
            if seen.num_classes is not None and variant.act:
                pairs.append(('BN of the last state', True, seen.has_last_norm))
    elif named.family == seen.family and seen.rla_channels:
        prefix = MOBILENET_PREFIX[args['recurrent_conv']]
        pairs.append(('first part', named.variant, prefix))
    if named.variant is not None and not seen.rla_channels:
        pairs.append(('RLA weights', True, False))
    wrong = [(what, a, b) for what, a, b in pairs if a != b]
    if wrong:
        differences = '; '.join(f'{w} {a} by name, {b} here' for w, a, b in wrong)
        raise CheckpointError(
            f'the weights are not those of {named.text}: {differences}; by names and '
            f'shapes they are those of {_guess_name(seen)}'
        )


def _see_resnet(shapes: Mapping[str, Shape]) -> _Seen:
    blocks = _count_blocks(shapes, 'conv1')
    depths = {counts: depth for depth, counts in RLAResNet.arch_settings.items()}
    if blocks not in depths or 'stages.0.0.conv3.weight' not in shapes:
        kind = 'bottlenecks' if 'stages.0.0.conv3.weight' in shapes else 'basic blocks'
        known = ', '.join(f'{d}: {c}' for c, d in depths.items())
        raise CheckpointError(
            f'stages of {blocks} {kind} are no RLA-ResNet, which has bottlenecks: '
            f'{known}'
        )
    k, shared = _hidden_channels(shapes)
    deep_stem = 'stem.0.conv.weight' in shapes
    stem = shapes['stem.2.conv.weight' if deep_stem else 'conv1.weight'][0]
    channels = tuple(shapes[f'stages.{s}.0.conv3.weight'][0] for s in range(4))
    width, group_width = shapes['stages.0.0.conv2.weight'][:2]
    planes = [c // RLAResNet.expansion for c in channels]
    base = planes[1] - planes[0]

    args: Dict[str, Any] = dict(depth=depths[blocks])
    if stem != 64:
        args['stem_channels'] = stem
    if base != 64:
        args['base_channels'] = base
    if planes[0] != base:
        args['extra_channels'] = RLAResNet.expansion * (planes[0] - base)
    if width != group_width:
        args.update(groups=width // group_width)
        args['width_per_group'] = group_width * 64 // planes[0]
    if deep_stem:
        args['deep_stem'] = True
    if 'stages.1.0.downsample.2.weight' in shapes:
        args['avg_down'] = True
    attention, cfg = _see_attention(shapes, blocks, channels)
    if cfg is not None:
        args['attention'] = cfg
    return _Seen(
        family='resnet',
        blocks=blocks,
        channels=channels,
        rla_channels=k,
        args=args,
        cell=_see_cell(shapes),
        shared=shared,
        exchange=shapes['stages.0.0.conv1.weight'][1] == stem + k,
        attention=attention,
        has_last_norm='bn2.weight' in shapes,
        num_classes=shapes['fc.weight'][0] if 'fc.weight' in shapes else None,
    )


def _see_mobilenet(shapes: Mapping[str, Shape]) -> _Seen:
    blocks = _count_blocks(shapes, 'conv.1')
    known = tuple(setting[2] for setting in RLAMobileNetV2.arch_settings)
    if blocks != known:
        raise CheckpointError(
            f'settings of {blocks} blocks are no RLA-MobileNetV2, which has {known}'
        )
    k, shared = _hidden_channels(shapes)
    stem = shapes['conv1.0.weight'][0]
    args: Dict[str, Any] = {}
    if stem != 32:
        args['widen_factor'] = stem / 32
    widths = tuple(shapes[f'stages.{s}.0.conv.1.weight'][0] for s in range(len(blocks)))
    if k:
        recurrent = next(
            (shapes[n] for n in shapes if re.match(r'recurrent_(ds)?convs\.0\.', n)), ()
        )
        depthwise = len(recurrent) == 4 and recurrent[1] == 1
        args.update(recurrent_conv='depthwise' if depthwise else 'full', tied=True)
    attention, cfg = _see_attention(shapes, blocks, widths)
    if cfg is not None:
        args['attention'] = cfg
    head = 'classifier.1.weight'
    return _Seen(
        family='mobilenet_v2',
        blocks=blocks,
        channels=tuple(widths[s[-1]] for s in RLAMobileNetV2.stage_settings),
        rla_channels=k,
        args=args,
        cell=_see_cell(shapes),
        shared=shared,
        exchange=shapes['stages.0.0.conv.0.0.weight'][0] == stem + k,
        attention=attention,
        has_last_norm='bn2.weight' in shapes,
        last_conv=shapes['conv2.0.weight'][0] if 'conv2.0.weight' in shapes else None,
        num_classes=shapes[head][0] if head in shapes else None,
    )


def _count_blocks(shapes: Mapping[str, Shape], conv: str) -> Tuple[int, ...]:
    """Blocks of each stage."""
    found: Dict[int, Set[int]] = defaultdict(set)
    pattern = re.compile(rf'stages\.(\d+)\.(\d+)\.{re.escape(conv)}\.weight')
    for name in shapes:
        match = pattern.fullmatch(name)
        if match:
            found[int(match[1])].add(int(match[2]))
    for index, indices in [(-1, set(found)), *sorted(found.items())]:
        missing = set(range(max(indices, default=-1) + 1)) - indices
        if missing:
            where = 'stages' if index < 0 else f'stages.{index}'
            raise CheckpointError(f'{where}.{min(missing)} is missing from the weights')
    return tuple(len(found[s]) for s in sorted(found))


def _hidden_channels(shapes: Mapping[str, Shape]) -> Tuple[int, bool]:
    """k, and whether C1 is shared."""
    if 'conv_outs.0.weight' in shapes:
        return shapes['conv_outs.0.weight'][0], True
    if 'stages.0.0.conv_out.weight' in shapes:
        return shapes['stages.0.0.conv_out.weight'][0], False
    return 0, True


def _see_cell(shapes: Mapping[str, Shape]) -> str:
    """The kind of cell; the post-activated one looks like the plain conv."""
    if 'recurrent_convs.0.gate_conv.weight' in shapes:
        return 'convgru'
    return 'convlstm' if 'recurrent_convs.0.conv.weight' in shapes else 'conv'


def _see_attention(
    shapes: Mapping[str, Shape], blocks: Tuple[int, ...], channels: Tuple[int, ...]
) -> Tuple[Optional[str], Any]:
    """Kind of attention, and its config: one for all stages or a list."""
    kinds: Set[str] = set()
    cfgs: List[Optional[Dict[str, Any]]] = []
    default = True
    for s, (count, width) in enumerate(zip(blocks, channels)):
        of_blocks = []
        for b in range(count):
            eca = shapes.get(f'stages.{s}.{b}.eca.conv.weight')
            se = shapes.get(f'stages.{s}.{b}.se.fc.0.weight')
            cfg: Optional[Dict[str, Any]] = None
            if eca is not None:
                kinds.add('eca')
                cfg = dict(type=ATTENTIONS['eca'], kernel_size=eca[-1])
                default &= eca[-1] == ECALayer(width).conv.kernel_size[0]
            elif se is not None:
                kinds.add('se')
                cfg = dict(type=ATTENTIONS['se'], ratio=se[1] // se[0])
                default &= se[1] // se[0] == 16
            else:
                default = False
            of_blocks.append(cfg)
        if any(cfg != of_blocks[0] for cfg in of_blocks):
            raise CheckpointError(
                f'the blocks of stages.{s} have different attention modules'
            )
        cfgs.append(of_blocks[0])
    if len(kinds) > 1:
        raise CheckpointError('the blocks have both ECA and SE modules')
    if not kinds:
        return None, None
    kind = kinds.pop()
    if default:
        return kind, dict(type=ATTENTIONS[kind])
    return kind, cfgs
