# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Whether the weights that a backbone was given are its own."""

import logging
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple, Union

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .layers.plugins import plugin_names

InitCfg = Union[None, dict, List[dict]]

#: Which part of a network's convs may be without weights (a first conv for other
#: images, the convs that SSD appends to VGG are normal; a missing stage is another
#: network), and which part of a file's convs may belong to blocks that are not there.
_LOST = 0.15
_SURPLUS = 0.25

Shapes = Mapping[str, Tuple[int, ...]]


class WeightsMismatchError(ValueError):
    """The weights that a config names are not those of its network."""


def as_pretrained(init_cfg: InitCfg) -> Tuple[InitCfg, bool]:
    """The config with ``type='Pretrained'`` where it names PretrainedInit otherwise.

    A class, ``'PretrainedInit'`` and ``'mmengine.Pretrained'`` say the same, but
    MMEngine and mmpretrain compare with the one string.

    Args:
        init_cfg: What BaseModule takes.

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
    """Whether a config names PretrainedInit: as a class, by name, with a scope."""
    kind: Any = cfg.get('type')
    if isinstance(kind, str):
        if kind.rpartition('.')[2] == 'PretrainedInit':
            return True  # its name in the registry is 'Pretrained'
        kind = WEIGHT_INITIALIZERS.get(kind)
    return isinstance(kind, type) and issubclass(kind, PretrainedInit)


@dataclass(frozen=True)
class Fit:
    """How given weights fit a backbone.

    Attributes:
        loaded: How many tensors of the plain network were given.
        total: How many it has.
        is_plain: Whether they are of a plain network, without RLA.
        refusal: Why they are another network's; None if they are its own.
        missing: Names of tensors of the plain network that were not given.
    """

    loaded: int
    total: int
    is_plain: bool
    refusal: Optional[str]
    missing: List[str]

    def log(self, name: str) -> None:
        """Say what was taken of the weights of a plain network.

        Args:
            name: The backbone's class.
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
    """Compare names and shapes.

    Args:
        backbone: An RLA backbone; what stands below ``rla`` is RLA's.
        given: Weights by name, without the backbone's prefix.
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
    """What the weights of a plain network do not have: plugins, offsets of DCN."""
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
    """Why weights are another network's, in one line."""
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
    """Why RLA units are others than those of given weights; None if they are not.

    Args:
        own: Shapes of the network's units by name.
        given: Shapes of the weights by name.
    """
    lost = [name for name in own if given.get(name) != own[name]]
    if not lost:
        return None
    return (
        f'it has other RLA units: {lost[0]} is {given.get(lost[0], "missing")} there '
        f'and {own[lost[0]]} here; set rla_channels, cell, shared and exchange to '
        'those of the file'
    )


def misfit(own: Shapes, given: Shapes, arrived: Set[str]) -> Optional[str]:
    """Why weights are of another network than the one that was given them.

    New parts beside the old ones (a plugin in each block, the offsets of deformable
    convs) are no reason, nor are weights of parts that the network does not have;
    blocks without weights and weights of blocks that are not there are.

    Args:
        own: Shapes of the network's tensors by name.
        given: Shapes of the weights by name.
        arrived: Names of the network's tensors that the weights are in.

    Returns:
        The reason, in one line; None if they fit.
    """
    convs = [name for name in own if _is_conv(name, own)]
    if not arrived.intersection(convs or own):
        return _strangers(own, given)
    places = {place for name in arrived for place in _blocks(name)}
    containers = {container for container, _ in places}

    blocks = {place for name in own for place in _blocks(name)}
    surplus: Dict[Tuple[str, str], None] = {}
    homeless = 0
    for name in given:
        new = [p for p in _blocks(name) if p[0] in containers and p not in blocks]
        # A file may well have more parts than a network that is one of them.
        new = [place for place in new if place[1].isdigit()]
        if new and _is_conv(name, given):
            homeless += 1
            surplus[new[0]] = None
    if homeless > _SURPLUS * (homeless + len(arrived.intersection(convs))):
        first = '.'.join(next(iter(surplus)))
        more = len(surplus) - 1
        return (
            f'it is of a deeper network: {first} and {more} more blocks are not in '
            'this one; set depth'
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
    wrong = next((name for name in lost if name in given), None)
    example = (
        f'{wrong} is {given[wrong]} there and {own[wrong]} here'
        if wrong
        else f'{lost[0]} is not in it'
    )
    return (
        f'it is of another network: {len(lost)} of {len(convs)} convs are without '
        f'weights, {example}; set depth, widths and class of the backbone to those of '
        'the file'
    )


def _is_conv(name: str, shapes: Shapes) -> bool:
    """Whether a name is of the weight of a conv or a linear layer."""
    return name.endswith('weight') and len(shapes[name]) > 1


def _strangers(own: Shapes, given: Shapes) -> str:
    """What to say of weights of which none arrived."""
    first = next(iter(own))
    prefixes = {n[: -len(first)] for n in given if n.endswith(f'.{first}')}
    for prefix in sorted(prefixes, key=len):
        if sum(prefix + name in given for name in own) > len(own) / 2:
            return f"none of its names is this network's; prefix={prefix!r} would fit"
    if any(name in given for name in own):
        wrong = next(name for name in own if name in given)
        return (
            f'no shape is the same: {wrong} is {given[wrong]} there and {own[wrong]} '
            'here; set depth, widths and class of the backbone to those of the file'
        )
    return (
        f"none of its names is this network's: the first are "
        f'{", ".join(list(given)[:3])}, here {", ".join(list(own)[:3])}'
    )


def _blocks(name: str) -> List[Tuple[str, str]]:
    """(container, index) of the blocks that a tensor is in, and its part likewise."""
    parts = name.split('.')
    top = parts.index('backbone') + 1 if 'backbone' in parts[:-1] else 0
    return [
        ('.'.join(parts[:i]), part)
        for i, part in enumerate(parts)
        if i == top or part.isdigit()
    ]
