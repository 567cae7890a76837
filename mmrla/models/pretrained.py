# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Whether the weights that a backbone was given are its own."""

import logging
import re
from dataclasses import dataclass
from typing import Any, Iterable, List, Mapping, Optional, Set, Tuple, Union

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .layers.plugins import plugin_names

InitCfg = Union[None, dict, List[dict]]

#: Of the convs of the plain network, which part may be without weights: a first conv
#: for other images is normal, a missing stage is another network.
_MISSING_CONVS = 0.1


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
    own: Mapping[str, Tuple[int, ...]],
    plain: List[str],
    missing: List[str],
    shapes: Mapping[str, Tuple[int, ...]],
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
    if missing == plain:
        first = plain[0]
        prefixes = {n[: -len(first)] for n in shapes if n.endswith(f'.{first}')}
        if prefixes:
            fitting = sorted(prefixes, key=len)[0]
            return f"none of its names is this network's; prefix={fitting!r} would fit"
        return (
            f"none of its names is this network's: the first are "
            f'{", ".join(list(shapes)[:3])}, here {", ".join(plain[:3])}'
        )
    blocks = _blocks(own)
    layers = {layer for layer, _ in blocks}
    surplus = sorted(b for b in _blocks(shapes) - blocks if b[0] in layers)
    if surplus:
        return (
            f'it is of a deeper network: {".".join(surplus[0])} and {len(surplus) - 1} '
            'more blocks are not in this one; set depth'
        )
    convs = [name for name in plain if len(own[name]) == 4]
    lost = [name for name in convs if name in missing]
    if len(lost) > _MISSING_CONVS * len(convs):
        wrong = next((name for name in lost if name in shapes), None)
        example = (
            f'{wrong} is {shapes[wrong]} there and {own[wrong]} here'
            if wrong
            else f'{lost[0]} is not in it'
        )
        return (
            f'it is of another network: {len(lost)} of {len(convs)} convs are without '
            f'weights, {example}; set depth, widths and class of the backbone to '
            'those of the file'
        )
    if any(name.startswith('rla.') for name in shapes):
        lost = [n for n in own if n.startswith('rla.') and shapes.get(n) != own[n]]
        if lost:
            return (
                f'it has other RLA units: {lost[0]} is '
                f'{shapes.get(lost[0], "missing")} there and {own[lost[0]]} here; set '
                'rla_channels, cell, shared and exchange to those of the file'
            )
    return None


def _blocks(names: Iterable[str]) -> Set[Tuple[str, str]]:
    """(layer, index) of the blocks that names are of."""
    found = (re.match(r'(layer\d+)\.(\d+)\.', name) for name in names)
    return {(match[1], match[2]) for match in found if match}
