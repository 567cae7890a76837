# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Map names of weights between mmrla and the released files.

:func:`released_names` is the only place with the mapping. Where the released code has
one conv or norm for concat(x, h), we have two: the plain network's and the read of h.
"""

import re
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor


class Place(NamedTuple):
    """Place of one of our tensors in a released file.

    Attributes:
        names: Its names there; several for copies of a tied module.
        part: 'all', or the part of the released tensor: 'x' (first channels) or
            'h' (last channels).
        dim: The split dimension.
    """

    names: Tuple[str, ...]
    part: str = 'all'
    dim: int = 0


#: (expansion, blocks, stride) of MobileNetV2's inverted-residual settings.
_SETTINGS = (
    (1, 1, 1),
    (6, 2, 2),
    (6, 3, 2),
    (6, 4, 2),
    (6, 3, 1),
    (6, 3, 2),
    (6, 1, 1),
)
#: Attention modules in a block.
_BLOCK = (('se.fc1', 'se.fc.0'), ('se.fc2', 'se.fc.2'))
#: Copies of the one tied C3 in a released MobileNetV2.
_TIED_COPIES = 5


def released_names(ours: Sequence[str]) -> Dict[str, Place]:
    """Place of each of our tensors in the released file.

    Args:
        ours: Names in the state dict of a classifier or detector; wiring records and
            names that stay the same (a detector's heads) are left out.
    """
    mobilenet = 'backbone.conv2.conv.weight' in ours
    unshared = any('.compress.1.' in name for name in ours) and not mobilenet
    place = _mobilenet if mobilenet else _resnet
    places: Dict[str, Place] = {}
    for name in ours:
        module, _, tensor = name.rpartition('.')
        if tensor == 'wiring':
            continue
        found = place(module, unshared)
        if found is None:
            continue
        names, part, dim = found
        part = 'all' if tensor == 'num_batches_tracked' else part
        places[name] = Place(tuple(f'{n}.{tensor}' for n in names), part, dim)
    # Without a read the conv is whole.
    read = {n for p in places.values() if p.part == 'h' for n in p.names}
    return {
        name: p if p.part != 'x' or p.names[0] in read else p._replace(part='all')
        for name, p in places.items()
    }


_Found = Tuple[Tuple[str, ...], str, int]


def _resnet(module: str, unshared: bool) -> Optional[_Found]:
    """Names, part and dimension of one of our modules; None if it keeps its name."""
    plain = {'backbone.conv1': 'conv1', 'backbone.bn1': 'bn1', 'head.fc': 'fc'}
    plain['neck.hidden.norm'] = 'bn2'
    if module in plain:
        return (plain[module],), 'all', 0
    match = re.fullmatch(r'backbone\.layer(\d+)\.(\d+)\.(.+)', module)
    if match:
        inside = dict(_BLOCK).get(match[3], match[3])
        name = f'stages.{int(match[1]) - 1}.{match[2]}.{inside}'
        return (name,), 'x' if inside == 'conv1' else 'all', 1
    match = re.fullmatch(r'backbone\.rla\.(\d+)\.(\w+)\.(\d+)(.*)', module)
    if not match:
        return None
    s, kind, t, rest = match.groups()
    rest = rest.replace('.gates', '.conv')  # ConvLSTM
    if kind == 'read':
        return (f'stages.{s}.{t}.conv1',), 'h', 1
    if unshared:
        own = dict(compress='conv_out', recurrent='recurrent_conv', norms='bn_rla')
        return (f'stages.{s}.{t}.{own[kind]}{rest}',), 'all', 0
    if kind == 'norms':
        return (f'stage_bns.{s}.{t}',), 'all', 0
    stem = dict(compress='conv_outs', recurrent='recurrent_convs')[kind]
    return (f'{stem}.{s}{rest}',), 'all', 0


def _settings() -> List[List[Tuple[int, int]]]:
    """(setting, block) of each block of the units of RLA-MobileNetV2, in order."""
    units: List[List[Tuple[int, int]]] = []
    for i, (_, blocks, stride) in enumerate(_SETTINGS):
        if i == 0 or stride > 1:
            units.append([])
        units[-1] += [(i, b) for b in range(blocks)]
    return units


def _mobilenet(module: str, unshared: bool) -> Optional[_Found]:
    plain = {
        'backbone.conv1.conv': ('conv1.0', 'all'),
        'backbone.conv1.bn': ('conv1.1', 'all'),
        'backbone.conv2.conv': ('conv2.0', 'x'),
        'backbone.conv2.bn': ('conv2.1', 'all'),
        'backbone.rla.4.last.conv': ('conv2.0', 'h'),
        'backbone.rla.4.last.norm': ('bn2', 'all'),
        'head.fc': ('classifier.1', 'all'),
    }
    if module in plain:
        name, part = plain[module]
        return (name,), part, 1
    match = re.fullmatch(r'backbone\.layer(\d+)\.(\d+)\.conv\.(\d)\.(conv|bn)', module)
    if match:
        setting, i = int(match[1]) - 1, int(match[3])
        # Without an expansion the depthwise conv is the first.
        i += int(_SETTINGS[setting][0] == 1)
        inside, part, dim = {
            (0, 'conv'): ('conv1x1.0', 'all', 0),
            (0, 'bn'): ('conv1x1.1', 'all', 0),
            (1, 'conv'): ('conv.0.0', 'x', 0),
            (1, 'bn'): ('conv.0.1', 'x', 0),
            (2, 'conv'): ('conv.1', 'x', 1),
            (2, 'bn'): ('conv.2', 'all', 0),
        }[i, match[4]]
        return (f'stages.{setting}.{match[2]}.{inside}',), part, dim
    match = re.fullmatch(r'backbone\.layer(\d+)\.(\d+)\.(eca\.conv|se\.fc\d)', module)
    if match:
        inside = dict(_BLOCK).get(match[3], match[3])
        return (f'stages.{int(match[1]) - 1}.{match[2]}.{inside}',), 'all', 0
    match = re.fullmatch(r'backbone\.rla\.(\d+)\.(\w+)\.(\d+)(?:\.(\w+))?', module)
    if not match:
        return None
    unit, t = _settings()[int(match[1])], int(match[3])
    if match[2] == 'recurrent':
        kind = 'recurrent_dsconvs'  # renamed below for a full conv
        return tuple(f'{kind}.{i}' for i in range(_TIED_COPIES)), 'all', 0
    if match[2] == 'compress':
        setting = sorted({s for s, _ in unit})[t]
        return (f'conv_outs.{setting}',), 'all', 0
    setting, block = unit[t]
    if match[2] == 'norms':
        return (f'stage_bns.{setting}.{block}',), 'all', 0
    inside, dim = dict(
        depthwise=('conv.0.0', 0), norm=('conv.0.1', 0), pointwise=('conv.1', 1)
    )[match[4]]
    return (f'stages.{setting}.{block}.{inside}',), 'h', dim


def to_ours(
    released: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Rename released weights to ours.

    Args:
        released: Weights under released names, without prefixes, including those
            that keep their names (a detector's heads).
        own: State dict of our network: names, shapes and wiring records.

    Returns:
        The weights in our network's order; a phrase for each that is missing or has
        another shape; the released names without a place.
    """
    places = released_names(list(own))
    weights: Dict[str, Tensor] = {}
    wrong: List[str] = []
    used = set()
    for name, expected in own.items():
        place = places.get(name, Place((name,)))
        theirs = [_full_names(n, released) for n in place.names]
        if name.endswith('.wiring'):
            weights[name] = expected
            continue
        found = [released[n] for n in theirs if n in released]
        used.update(theirs)
        if not found:
            # Files from before PyTorch 0.4.1 have no batch counters.
            if name.endswith('num_batches_tracked'):
                weights[name] = torch.tensor(0)
            else:
                wrong.append(f'{theirs[0]} is missing')
            continue
        if any(not torch.equal(found[0], copy) for copy in found[1:]):
            wrong.append(f'{theirs[0]} and its copies, which are tied, are not equal')
        value = found[0]
        size = 0 if place.part == 'all' else expected.shape[place.dim]
        if place.part == 'x':
            value = value.narrow(place.dim, 0, min(size, value.shape[place.dim]))
        elif place.part == 'h' and size <= value.shape[place.dim]:
            value = value.narrow(place.dim, value.shape[place.dim] - size, size)
        if value.shape != expected.shape:
            wrong.append(
                f'{theirs[0]} is {tuple(found[0].shape)}, which gives {name} '
                f'{tuple(value.shape)} instead of {tuple(expected.shape)}'
            )
        weights[name] = value.clone() if place.part != 'all' else value
    sizes: Dict[Tuple[str, int], int] = {}
    for name, place in places.items():
        if place.part != 'all':
            key = _full_names(place.names[0], released), place.dim
            sizes[key] = sizes.get(key, 0) + own[name].shape[place.dim]
    for (name, dim), size in sizes.items():
        if name in released and released[name].shape[dim] != size:
            shape = tuple(released[name].shape)
            wrong.append(f'{name} is {shape}, its dimension {dim} is not {size}')
    return weights, wrong, [name for name in released if name not in used]


def _full_names(name: str, released: Mapping[str, Tensor]) -> str:
    """Name of a tied C3 that is a full conv."""
    other = name.replace('recurrent_dsconvs.', 'recurrent_convs.')
    return other if name not in released and other in released else name


def to_released(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Rename our weights to the released names: the inverse of :func:`to_ours`.

    Args:
        weights: Weights under our names; wiring records are left out.
    """
    places = released_names(list(weights))
    c3 = weights.get('backbone.rla.0.recurrent.0.weight')
    full = c3 is not None and c3.shape[1] > 1  # a tied C3 is called by its kind
    released: Dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith('.wiring'):
            continue
        place = places.get(name, Place((name,)))
        for theirs in place.names:
            if full:
                theirs = theirs.replace('recurrent_dsconvs.', 'recurrent_convs.')
            if place.part == 'all':
                released[theirs] = value
            elif theirs in released:
                parts = [released[theirs], value]
                released[theirs] = torch.cat(
                    parts if place.part == 'h' else parts[::-1], place.dim
                )
            else:
                released[theirs] = value
    return released
