# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints of this package as the released code reads them."""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Tuple

from torch import Tensor, nn

from ..models.backbones import RLAMobileNetV2
from .arch import MOBILENET, RESIDUAL, VARIANTS, ReleasedArch, Variant
from .detectors import is_part
from .files import CheckpointError
from .names import recognise_weights, to_released
from .wiring import decode


@dataclass(frozen=True)
class Exported:
    """What an export gives.

    Attributes:
        checkpoint: What is to be saved.
        arch: The released code's name of the network.
        notes: What the user should know, a line each.
    """

    checkpoint: Any
    arch: str
    notes: Tuple[str, ...] = ()


def export(checkpoint: Mapping[str, Any]) -> Exported:
    """A checkpoint with the released names.

    A checkpoint that :func:`mmrla.checkpoints.convert.convert` made gets the names,
    their order and the entries of the file that it was made of (the optimizer's
    state excepted). Another one gets those of the published files: ``module.``
    before a classifier's names, ``backbone.`` before those of a detector's backbone.

    Args:
        checkpoint: The object in a checkpoint of this package.

    Raises:
        CheckpointError: If it has no weights of a network that the released code
            has.
    """
    weights = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError('no checkpoint of mmrla: it has no state_dict')
    meta = checkpoint.get('meta') or {}
    if 'released' in meta:
        return _restore(weights, meta)
    if 'backbone.layer1.rla.wiring' not in weights:
        raise CheckpointError(
            'no checkpoint of an RLA network of mmrla: backbone.layer1.rla.wiring is '
            'not in it'
        )
    return _export(weights, meta)


def _restore(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Exported:
    """The way back for a converted checkpoint."""
    record = meta['released']
    released = {
        own: record['unused'][own] if own in record['unused'] else weights[ours]
        for own, ours in record['names'].items()
    }
    if record['entry'] is None:
        return Exported(released, meta['arch'])
    container = dict(record['container'])
    container[record['entry']] = released
    return Exported(container, meta['arch'])


def _export(weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Exported:
    """Released names for a network that was trained here."""
    is_detector = 'head.fc.weight' not in weights
    heads = {n: v for n, v in weights.items() if is_detector and is_part(n)}
    network = {n: v for n, v in weights.items() if n not in heads}
    arch = _arch_of(network)
    if is_detector:
        _add_last_norm(network, arch)
    released = to_released(network, arch)
    name = _name_of(arch, recognise_weights(released).name, is_detector)
    notes = []
    if name.endswith(RESIDUAL):
        notes.append(
            f'trained with integration={arch.integration!r}, which the released code '
            'does not compute: it gives other outputs with these weights'
        )
    if is_detector:
        classes = dict(meta.get('dataset_meta') or {}).get('classes')
        named = {f'backbone.{n}': v for n, v in released.items()}
        container = dict(meta=dict(CLASSES=classes), state_dict={**named, **heads})
    else:
        named = {f'module.{n}': v for n, v in released.items()}
        container = dict(arch=name, state_dict=named)
    return Exported(container, name, tuple(notes))


def _arch_of(weights: Mapping[str, Tensor]) -> ReleasedArch:
    """The network of weights under our names, as far as its names need it."""
    blocks: Dict[int, int] = defaultdict(int)
    for name in weights:
        match = re.match(r'backbone\.layer(\d+)\.blocks\.(\d+)\.', name)
        if match:
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks[stage], block + 1)
    counts = tuple(blocks[stage] for stage in sorted(blocks))
    wiring = decode(weights['backbone.layer1.rla.wiring'])
    values = dict(re.findall(r"(\w+)='([\w-]+)'", wiring))
    hidden = weights.get('neck.hidden.wiring')
    act = None if hidden is None else decode(hidden)
    act = dict(re.findall(r"(\w+)='(\w+)'", act)).get('act') if act else 'ReLU'

    args: Dict[str, Any] = {}
    mobilenet = 'backbone.conv1.conv.weight' in weights
    if mobilenet:
        counts = tuple(setting[2] for setting in RLAMobileNetV2.arch_settings)
        recurrent = weights.get('backbone.layer1.rla.recurrent.0.weight')
        depthwise = recurrent is not None and recurrent.shape[1] == 1
        args['recurrent_conv'] = 'depthwise' if depthwise else 'full'
    elif 'backbone.conv1.weight' not in weights:
        raise CheckpointError('the released code has no ResNet-D: no conv1 in the stem')
    rla = weights['backbone.layer1.rla.compress.0.weight']
    attention = None
    if 'backbone.layer1.blocks.0.attention.fc1.weight' in weights:
        attention = 'se'
    elif 'backbone.layer1.blocks.0.attention.conv.weight' in weights:
        attention = 'eca'
    # Without exchange the first conv reads the stem's output alone.
    stem = weights[f'backbone.conv1.{"conv." if mobilenet else ""}weight'].shape[0]
    first = 'depthwise.conv.weight' if mobilenet else 'conv1.weight'
    inputs = weights[f'backbone.layer1.blocks.0.{first}'].shape[0 if mobilenet else 1]
    return ReleasedArch(
        name='',
        family='mobilenet_v2' if mobilenet else 'resnet',
        blocks=counts,
        channels=(),
        rla_channels=rla.shape[0],
        args=args,
        variant=Variant(
            integration=values['integration'],
            cell=values['cell'],
            shared=mobilenet or 'backbone.layer1.rla.compress.1.weight' not in weights,
            exchange=inputs > stem,
            act=act,
        ),
        attention=attention,
    )


def _name_of(arch: ReleasedArch, visible: str, is_detector: bool) -> str:
    """The released name of a network.

    Args:
        arch: The network.
        visible: The name that fits what names and shapes show.
        is_detector: Whether the weights have no last state.
    """
    own = arch.variant
    if arch.family == 'mobilenet_v2':
        known = {'': MOBILENET}
    else:
        known = VARIANTS
    for prefix, variant in known.items():
        same = replace(
            own,
            integration='',
            residual='',
            act=variant.act if is_detector else own.act,
        ) == replace(variant, integration='', residual='')
        if not same or own.integration not in (variant.integration, variant.residual):
            continue
        name = '_'.join([prefix, visible.split('_', 1)[1]]) if prefix else visible
        return name if own.integration == variant.integration else name + RESIDUAL
    raise CheckpointError(
        f'the released code has no network with {own.cell=}, {own.integration=}, '
        f'{own.shared=}, {own.exchange=}, {own.act=}'.replace('own.', '')
    )


def _add_last_norm(weights: Dict[str, Tensor], arch: ReleasedArch) -> None:
    """Add the norm of the last update, which a detector's backbone does not have.

    The released code computes that update and drops it.
    """
    units = sorted({n.split('.rla.')[0] for n in weights if '.rla.' in n})
    count = arch.blocks[-1] if arch.family == 'resnet' else arch.blocks[5] + 1
    norm = nn.BatchNorm2d(arch.rla_channels)
    for name, value in norm.state_dict().items():
        weights.setdefault(f'{units[-1]}.rla.norms.{count - 1}.{name}', value)
