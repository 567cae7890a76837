# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Names of the weights: those of the released files <-> those of this package.

:func:`module_pairs` holds the mapping, once: which module of the released code is
which of ours. :func:`to_mmrla` and :func:`to_released` read it in either direction.
"""

import re
from collections import defaultdict
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor

from ..models.backbones import RLAMobileNetV2
from .arch import ReleasedArch, Shape, recognise
from .files import CheckpointError

#: (module of the released code, module of ours); None for a module of the
#: released code that computes nothing.
Pair = Tuple[str, Optional[str]]

#: Parameters and buffers of a module, in the order of a state dict.
_TENSORS = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')

#: Modules inside a recurrent cell: (released, ours).
_CELLS: Dict[str, Sequence[Tuple[str, str]]] = {
    'conv': [('', '')],
    'post-act': [('', '')],
    'convlstm': [('.conv', '.gates')],
    'convgru': [
        ('.gate_conv', '.gates'),
        ('.reset_gate_norm', '.reset_norm'),
        ('.update_gate_norm', '.update_norm'),
        ('.output_conv', '.candidate'),
        ('.output_norm', '.candidate_norm'),
    ],
}
#: Modules inside an attention module: (released, ours).
_ATTENTIONS = {
    None: [],
    'eca': [('eca.conv', 'conv')],
    'se': [('se.fc.0', 'fc1'), ('se.fc.2', 'fc2')],
}
#: Lists of modules in the released networks, those of recurrent cells excepted.
_LISTS = ('conv1', 'conv2', 'conv_outs', 'stages', 'stage_bns', 'stem', 'classifier')
#: Copies of the one tied C3 in a released MobileNetV2.
_TIED_COPIES = 5


def module_pairs(arch: ReleasedArch) -> List[Pair]:
    """The modules of a network in the order of the released file, with ours."""
    family = _resnet_pairs if arch.family == 'resnet' else _mobilenet_pairs
    return list(family(arch))


def _resnet_pairs(arch: ReleasedArch) -> Iterator[Pair]:
    unit = [f'backbone.layer{s + 1}.rla' for s in range(len(arch.blocks))]
    shared = bool(arch.rla_channels) and arch.variant.shared
    unshared = bool(arch.rla_channels) and not arch.variant.shared
    cell = _CELLS[arch.variant.cell]

    if arch.args.get('deep_stem'):
        for i in range(3):
            yield f'stem.{i}.conv', f'backbone.stem.{i}.conv'
            yield f'stem.{i}.bn', f'backbone.stem.{i}.bn'
    else:
        yield 'conv1', 'backbone.conv1'
        yield 'bn1', 'backbone.bn1'
    if shared:
        for s in range(len(arch.blocks)):
            yield f'conv_outs.{s}', f'{unit[s]}.compress.0'
        for s in range(len(arch.blocks)):
            for theirs, ours in cell:
                yield f'recurrent_convs.{s}{theirs}', f'{unit[s]}.recurrent.0{ours}'
    for s, count in enumerate(arch.blocks):
        for b in range(count):
            block, our_block = f'stages.{s}.{b}', f'backbone.layer{s + 1}.blocks.{b}'
            for i in (1, 2, 3):
                yield f'{block}.conv{i}', f'{our_block}.conv{i}'
                yield f'{block}.bn{i}', f'{our_block}.bn{i}'
            if b == 0:
                # ResNet-D pools before it projects.
                first = 1 if s and arch.args.get('avg_down') else 0
                for i in (first, first + 1):
                    yield f'{block}.downsample.{i}', f'{our_block}.downsample.{i}'
            for theirs, ours in _ATTENTIONS[arch.attention]:
                yield f'{block}.{theirs}', f'{our_block}.attention.{ours}'
            if unshared:
                yield f'{block}.conv_out', f'{unit[s]}.compress.{b}'
                for theirs, ours in cell:
                    yield (
                        f'{block}.recurrent_conv{theirs}',
                        f'{unit[s]}.recurrent.{b}{ours}',
                    )
                yield f'{block}.bn_rla', f'{unit[s]}.norms.{b}'
    if shared:
        for s, count in enumerate(arch.blocks):
            for b in range(count):
                yield f'stage_bns.{s}.{b}', f'{unit[s]}.norms.{b}'
    if arch.rla_channels:
        yield 'bn2', 'neck.hidden.norm' if arch.variant.act else None
    yield 'fc', 'head.fc'


def _mobilenet_pairs(arch: ReleasedArch) -> Iterator[Pair]:
    # Settings of one resolution are one stage of ours.
    stages = {
        setting: (f'backbone.layer{i + 1}', settings)
        for i, settings in enumerate(RLAMobileNetV2.stage_settings)
        for setting in settings
    }

    def block_index(setting: int, b: int) -> int:
        before = [i for i in stages[setting][1] if i < setting]
        return sum(arch.blocks[i] for i in before) + b

    yield 'conv1.0', 'backbone.conv1.conv'
    yield 'conv1.1', 'backbone.conv1.bn'
    for s, count in enumerate(arch.blocks):
        for b in range(count):
            block = f'stages.{s}.{b}'
            our_block = f'{stages[s][0]}.blocks.{block_index(s, b)}'
            if RLAMobileNetV2.arch_settings[s][0] > 1:
                yield f'{block}.conv1x1.0', f'{our_block}.expand.conv'
                yield f'{block}.conv1x1.1', f'{our_block}.expand.bn'
            yield f'{block}.conv.0.0', f'{our_block}.depthwise.conv'
            yield f'{block}.conv.0.1', f'{our_block}.depthwise.bn'
            yield f'{block}.conv.1', f'{our_block}.project.conv'
            yield f'{block}.conv.2', f'{our_block}.project.bn'
            for theirs, ours in _ATTENTIONS[arch.attention]:
                yield f'{block}.{theirs}', f'{our_block}.attention.{ours}'
    if arch.rla_channels:
        for s in range(len(arch.blocks)):
            stage, settings = stages[s]
            yield f'conv_outs.{s}', f'{stage}.rla.compress.{settings.index(s)}'
        depthwise = arch.args['recurrent_conv'] == 'depthwise'
        for i in range(_TIED_COPIES):
            name = 'recurrent_dsconvs' if depthwise else 'recurrent_convs'
            yield f'{name}.{i}', 'backbone.layer1.rla.recurrent.0'
        for s, count in enumerate(arch.blocks):
            for b in range(count):
                yield (
                    f'stage_bns.{s}.{b}',
                    f'{stages[s][0]}.rla.norms.{block_index(s, b)}',
                )
    yield 'conv2.0', 'neck.conv.conv'
    yield 'conv2.1', 'neck.conv.bn'
    if arch.rla_channels:
        yield 'bn2', 'neck.hidden.norm'
    yield 'classifier.1', 'head.fc'


def recognise_weights(
    weights: Mapping[str, Tensor], name: Optional[str] = None
) -> ReleasedArch:
    """The network of weights with released names, see :func:`recognise`."""
    return recognise(
        {
            canonical: tuple(weights[own].shape)
            for own, canonical in canonical_names(_shapes(weights)).items()
        },
        name,
    )


def mmrla_names(
    weights: Mapping[str, Tensor], arch: ReleasedArch
) -> Dict[str, Optional[str]]:
    """Our name for each released one; None for what computes nothing.

    Args:
        weights: Weights with released names.
        arch: Their network.

    Raises:
        CheckpointError: For a name that the network does not have.
    """
    modules = dict(module_pairs(arch))
    names: Dict[str, Optional[str]] = {}
    for own, canonical in canonical_names(_shapes(weights)).items():
        module, _, tensor = canonical.rpartition('.')
        if module not in modules or tensor not in _TENSORS:
            raise CheckpointError(f'{own} is no weight of {arch.name}')
        ours = modules[module]
        names[own] = None if ours is None else f'{ours}.{tensor}'
    return names


def to_mmrla(weights: Mapping[str, Tensor], arch: ReleasedArch) -> Dict[str, Tensor]:
    """Weights under our names.

    Args:
        weights: Weights under released names, without the prefixes ``module.``
            and ``backbone.``.
        arch: Their network.

    Returns:
        The weights of the classifier (``backbone.``, ``neck.``, ``head.``); the
        wiring records are not among them.

    Raises:
        CheckpointError: For a name that the network does not have, or copies of a
            tied tensor that are not equal.
    """
    converted: Dict[str, Tensor] = {}
    for own, ours in mmrla_names(weights, arch).items():
        if ours is None:
            continue
        if ours in converted and not torch.equal(converted[ours], weights[own]):
            raise CheckpointError(
                f'{own} is not equal to the other copies of the recurrent conv, which '
                f'{arch.name} ties'
            )
        converted[ours] = weights[own]
    return converted


def to_released(weights: Mapping[str, Tensor], arch: ReleasedArch) -> Dict[str, Tensor]:
    """Weights under the released names, in the order of the released files.

    The inverse of :func:`to_mmrla`; tied tensors are written once for each copy.

    Args:
        weights: Weights under our names; wiring records are left out.
        arch: Their network.

    Raises:
        CheckpointError: For a weight that the network does not have.
    """
    released: Dict[str, Tensor] = {}
    used = set()
    for theirs, ours in module_pairs(arch):
        for tensor in _TENSORS:
            name = f'{ours}.{tensor}'
            if name in weights:
                released[f'{theirs}.{tensor}'] = weights[name]
                used.add(name)
    for name in weights:
        if name not in used and not name.endswith('.wiring'):
            raise CheckpointError(f'{name} has no name in the released {arch.name}')
    return released


def _shapes(weights: Mapping[str, Tensor]) -> Dict[str, Shape]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def canonical_names(shapes: Mapping[str, Shape]) -> Dict[str, str]:
    """One spelling for names that differ from file to file.

    Modules whose role their shapes show are found whatever they are called: the
    parts of a ConvLSTM or ConvGRU cell, ECA and SE modules. ``layer1.0`` of a
    torchvision or mmpretrain ResNet becomes ``stages.0.0``.

    Args:
        shapes: Names, without prefixes, and shapes of weights.

    Returns:
        The names of :func:`module_pairs`, by the names given.

    Raises:
        CheckpointError: If the parts of a cell are not those of a known one.
    """
    canonical: Dict[str, str] = {}
    cells: Dict[str, List[Tuple[str, str]]] = defaultdict(list)
    for name, shape in shapes.items():
        new = re.sub(
            r'^layer(\d+)\.(?=\d+\.)', lambda m: f'stages.{int(m[1]) - 1}.', name
        )
        new = re.sub(r'^layers\.(?=\d+\.\d+\.)', 'stages.', new)
        new = re.sub(r'^head\.fc\.', 'fc.', new)
        block = re.match(r'stages\.\d+\.\d+\.', new)
        cell = re.fullmatch(r'(\w+)\.(\d+)\.(.+)', new)
        if block and len(shape) == 3 and shape[:2] == (1, 1):
            new = f'{block[0]}eca.conv.weight'
        elif block and len(shape) == 2:
            new = f'{block[0]}se.fc.{0 if shape[0] < shape[1] else 2}.weight'
        elif cell and cell[1] not in _LISTS and cell[3] != 'weight':
            cells[f'recurrent_convs.{cell[2]}'].append((name, cell[3]))
        canonical[name] = new
    for prefix, parts in cells.items():
        shapes_of_cell = {part: shapes[name] for name, part in parts}
        roles = _cell_roles(prefix, shapes_of_cell)
        for name, part in parts:
            canonical[name] = f'{prefix}.{roles[part]}'
    return canonical


def _cell_roles(prefix: str, shapes: Mapping[str, Shape]) -> Dict[str, str]:
    """Canonical names of a cell's weights, by their shapes.

    A ConvLSTM has one conv; a ConvGRU has one with two gates, one for the
    candidate, and norms in the order reset, update, candidate.
    """
    modules: Dict[str, Shape] = {}
    for part, shape in shapes.items():
        module, _, tensor = part.rpartition('.')
        if tensor == 'weight':
            modules[module] = shape
    convs = {m: s for m, s in modules.items() if len(s) == 4}
    norms = [m for m, s in modules.items() if len(s) == 1]
    roles: Dict[str, str] = {}
    if len(convs) == 1 and not norms:
        roles[next(iter(convs))] = 'conv'
    elif len(convs) == 2 and len(norms) == 3:
        small, large = sorted(convs, key=lambda m: convs[m][0])
        roles = {large: 'gate_conv', small: 'output_conv'}
        # Names that say it come before the order in the file.
        words = dict(reset='reset', update='update', output=r'out|cand?|new')
        found = {
            role: [m for m in norms if re.search(word, m)]
            for role, word in words.items()
        }
        if sorted(m for ms in found.values() for m in ms) == sorted(norms) and all(
            len(ms) == 1 for ms in found.values()
        ):
            norms = [found[role][0] for role in words]
        roles.update(zip(norms, ('reset_gate_norm', 'update_gate_norm', 'output_norm')))
    names = {}
    for part in shapes:
        module, _, tensor = part.rpartition('.')
        if module not in roles:
            raise CheckpointError(
                f'{prefix}.{part} is part of no cell that is known: a ConvLSTM has one '
                'conv, a ConvGRU two and three norms'
            )
        names[part] = f'{roles[module]}.{tensor}'
    return names
