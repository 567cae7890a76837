# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks whether the weights that are loaded into a backbone belong to it."""

import logging
import re
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Set, Tuple, Union

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .layers.plugins import plugin_names

InitCfg = Union[None, dict, List[dict]]

#: The share of a network's convs that may lack weights: a first conv for other images
#: or the convs that SSD appends to VGG may, a whole stage may not.
_LOST = 0.15
#: The share of a file's convs that may be in blocks that the network does not have.
_SURPLUS = 0.25

_REMEDY = 'set depth, widths and class of the backbone to those of the file'

Shapes = Mapping[str, Tuple[int, ...]]


class WeightsMismatchError(ValueError):
    """The pretrained weights are those of another network."""


def as_pretrained(init_cfg: InitCfg) -> Tuple[InitCfg, bool]:
    """Write ``type='Pretrained'`` for each other way to name PretrainedInit.

    The class, ``'PretrainedInit'`` and ``'mmengine.Pretrained'`` mean the same, but
    MMEngine and mmpretrain compare the type with ``'Pretrained'``.

    Args:
        init_cfg: As in BaseModule.

    Returns:
        The config, and whether it names pretrained weights.
    """
    cfgs = [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or [])
    named = [is_pretrained(cfg) for cfg in cfgs]
    cfgs = [
        dict(cfg, type='Pretrained') if pretrained else cfg
        for cfg, pretrained in zip(cfgs, named)
    ]
    if not any(named):
        return init_cfg, False
    return (cfgs[0] if len(cfgs) == 1 else cfgs), True


def is_pretrained(cfg: Mapping[str, Any]) -> bool:
    """Whether a config names PretrainedInit: the class, or its name in any scope."""
    kind: Any = cfg.get('type')
    if isinstance(kind, str):
        if kind.rpartition('.')[2] == 'PretrainedInit':
            return True  # registered as 'Pretrained'
        kind = WEIGHT_INITIALIZERS.get(kind)
    return isinstance(kind, type) and issubclass(kind, PretrainedInit)


@dataclass(frozen=True)
class Fit:
    """How weights fit a backbone.

    Attributes:
        loaded: How many tensors of the plain network are among the weights.
        total: How many tensors the plain network has.
        is_plain: Whether the weights are those of a plain network, without RLA.
        refusal: Why the weights belong to another network; None if they do not.
        missing: Names of the plain network's tensors that are not among the weights.
    """

    loaded: int
    total: int
    is_plain: bool
    refusal: Optional[str]
    missing: List[str]

    def log(self, name: str) -> None:
        """Log what was loaded from the weights of a plain network.

        Args:
            name: Name of the backbone's class.
        """
        if not self.is_plain or self.refusal:
            return
        print_log(
            f"{name}: {self.loaded} of {self.total} tensors are the plain network's; "
            'reads of the hidden state start at zero, C1, C3 and BN_t as drawn',
            logger='current',
        )
        if self.missing:
            print_log(
                f'{name}: without pretrained weights: {", ".join(self.missing[:5])}'
                + (f' and {len(self.missing) - 5} more' if self.missing[5:] else ''),
                logger='current',
                level=logging.WARNING,
            )


def check_fit(backbone: nn.Module, given: Mapping[str, Tensor]) -> Fit:
    """Compare the names and shapes of weights with those of a backbone.

    Args:
        backbone: An RLA backbone; its plain network is everything outside ``rla``.
        given: Weights by name, without the prefix of the backbone.
    """
    own = {
        name: tuple(value.shape)
        for name, value in backbone.state_dict().items()
        if not name.endswith('num_batches_tracked')
    }
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    arrived = {name for name, shape in own.items() if shapes.get(name) == shape}
    optional = _optional(backbone)
    plain = [
        name
        for name in own
        if not name.startswith('rla.') and not name.startswith(tuple(optional))
    ]
    missing = [name for name in plain if name not in arrived]
    has_rla = any(name.startswith('rla.') for name in shapes)
    return Fit(
        loaded=len(plain) - len(missing),
        total=len(plain),
        is_plain=len(missing) < len(plain) and not has_rla,
        refusal=_refusal(own, plain, missing, shapes),
        missing=missing,
    )


def _optional(backbone: nn.Module) -> Set[str]:
    """Prefixes of what plain weights may lack: plugins and the offsets of DCN."""
    names: Set[str] = set()
    for prefix, module in backbone.named_modules():
        if hasattr(module, 'conv_offset'):
            names.add(f'{prefix}.conv_offset.')
        for position in (1, 2, 3):
            for plugin in plugin_names(module, position):
                names.add(f'{prefix}.{plugin}.')
    return names


def _refusal(
    own: Shapes, plain: List[str], missing: List[str], shapes: Shapes
) -> Optional[str]:
    """Why weights belong to another network, in one line; None if they do not."""
    if any(re.search(r'(^|\.)layer\d+\.blocks\.\d+\.', name) for name in shapes):
        return (
            'the names are those of mmrla 0.1, which this version does not read; '
            'convert the original file again'
        )
    if any(re.search(r'(^|\.)stages\.\d+\.\d+\.', name) for name in shapes) and any(
        'stage_bns.' in name or 'bn_rla' in name for name in shapes
    ):
        return (
            'the names are those of the released RLANet code: convert the file with '
            'tools/model_converters/rlanet_to_mmrla.py'
        )
    refusal = misfit({n: own[n] for n in plain}, shapes, set(plain) - set(missing))
    if refusal or not any(name.startswith('rla.') for name in shapes):
        return refusal
    return other_units({n: s for n, s in own.items() if n.startswith('rla.')}, shapes)


def other_units(own: Shapes, given: Shapes) -> Optional[str]:
    """Why the RLA units of weights differ from a network's; None if they do not.

    Args:
        own: Shapes of the network's units by name.
        given: Shapes of the weights by name.
    """
    lost = [name for name in own if given.get(name) != own[name]]
    if not lost:
        return None
    return (
        f'it has other RLA units: {_both(lost[0], given, own)}; set rla_channels, '
        'cell, shared and exchange to those of the file'
    )


def misfit(own: Shapes, given: Shapes, arrived: Set[str]) -> Optional[str]:
    """Why weights belong to another network; None if they do not.

    The network may have new parts within its blocks (a plugin, the offsets of
    deformable convs), and the weights may have parts that the network lacks. But blocks
    of the one must be blocks of the other.

    Args:
        own: Shapes of the network's tensors by name.
        given: Shapes of the weights by name.
        arrived: Names of the network's tensors that weights were loaded into.

    Returns:
        The reason, in one line.
    """
    convs = [name for name in own if _is_conv(name, own)]
    if not arrived.intersection(convs or own):
        return _strangers(own, given)
    places = {place for name in arrived for place in _blocks(name)}
    containers = {container for container, _ in places}

    blocks = {place for name in own for place in _blocks(name)}
    # For each conv in a block that the network lacks, that block. Only numbered ones
    # count: the network may be a part of what is in the file.
    surplus: List[Tuple[str, str]] = []
    for name in given:
        places_of = [p for p in _blocks(name) if p[0] in containers and p[1].isdigit()]
        lacking = [place for place in places_of if place not in blocks]
        if lacking and _is_conv(name, given):
            surplus.append(lacking[0])
    if len(surplus) > _SURPLUS * (len(surplus) + len(arrived.intersection(convs))):
        return (
            f'it is of a deeper network: {".".join(surplus[0])} and '
            f'{len(set(surplus)) - 1} more blocks are not in this one; set depth'
        )

    lost = [
        name
        for name in convs
        if name not in arrived
        and (
            name in given
            or any(p[0] in containers and p not in places for p in _blocks(name))
        )
    ]
    if len(lost) <= _LOST * len(convs):
        return None
    example = next((name for name in lost if name in given), lost[0])
    return (
        f'it is of another network: {len(lost)} of {len(convs)} convs are without '
        f'weights; {_both(example, given, own)}; {_REMEDY}'
    )


def _both(name: str, given: Shapes, own: Shapes) -> str:
    """The shape of a tensor in the file and in the network."""
    there = given.get(name, 'missing')
    return f'{name} is {there} in the file and {own[name]} in the network'


def _is_conv(name: str, shapes: Shapes) -> bool:
    """Whether a name is that of the weight of a conv or a linear layer."""
    return name.endswith('weight') and len(shapes[name]) > 1


def _strangers(own: Shapes, given: Shapes) -> str:
    """The reason where no weight was loaded."""
    first = next(iter(own))
    prefixes = {n[: -len(first)] for n in given if n.endswith(f'.{first}')}
    for prefix in sorted(prefixes, key=len):
        if sum(prefix + name in given for name in own) > len(own) / 2:
            return f"none of its names is this network's; prefix={prefix!r} would fit"
    if any(name in given for name in own):
        wrong = next(name for name in own if name in given)
        return f'no shape is the same: {_both(wrong, given, own)}; {_REMEDY}'
    return (
        f"none of its names is this network's: the first are "
        f'{", ".join(list(given)[:3])}, those of the network {", ".join(list(own)[:3])}'
    )


def _blocks(name: str) -> List[Tuple[str, str]]:
    """(container, index) of each block that a tensor is in; of its top module too."""
    parts = name.split('.')
    top = parts.index('backbone') + 1 if 'backbone' in parts[:-1] else 0
    return [
        ('.'.join(parts[:i]), part)
        for i, part in enumerate(parts)
        if i == top or part.isdigit()
    ]
