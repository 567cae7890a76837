# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Record and judge the weights that are loaded into a network."""

import math
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn

from ..errors import UserError
from ..models.pretrained import is_pretrained, misfit, other_units
from ..models.rla import RLA

__all__ = [
    'Arrivals',
    'Load',
    'check_load',
    'check_pretrained',
    'learned',
    'load_weights',
    'pretrained_cfgs',
    'unwrapped',
]

_RLA = re.compile(r'(^|\.)rla\.\d+\.')
_BACKBONE = re.compile(r'(^|\.)backbone\.')
_SIZE_MISMATCH = re.compile(r'size mismatch for (\S+): ')
_CONVERT = (
    'weights of the released RLANet files are converted with '
    'tools/model_converters/rlanet_to_mmrla.py'
)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside wrappers for distributed training and augmented tests."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def learned(model: nn.Module) -> Dict[str, Tensor]:
    """Learned tensors: parameters and running statistics, by name."""
    tensors: Dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in model.named_buffers(remove_duplicate=False):
        if name.endswith(('.running_mean', '.running_var')):
            tensors[name] = tensor
    return tensors


@dataclass
class Load:
    """One loading of weights into a module, and its outcome.

    Attributes:
        name: The module's name in the network, '' for the whole network.
        given: Shapes of the weights by name, after the module renamed them.
        missing: The module's learned tensors without weights.
        unexpected: Names of the weights without a place.
        mismatched: Names of the weights of another shape.
        arrived: The module's learned tensors that were loaded, each with a number
            that shows whether it was changed since.
    """

    name: str
    given: Dict[str, Tuple[int, ...]]
    missing: List[str] = field(default_factory=list)
    unexpected: List[str] = field(default_factory=list)
    mismatched: List[str] = field(default_factory=list)
    arrived: Dict[str, float] = field(default_factory=dict)


class Arrivals:
    """Records what ``load_state_dict`` does to a network and each of its modules.

    It sees every call (of ``init_cfg``, ``load_from``, a module itself), every source,
    and names after modules renamed them.

    Args:
        model (nn.Module): The network, maybe wrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrapped(model)
        #: All loadings so far, in order.
        self.loads: List[Load] = []
        self._handles: List[Any] = []
        for name, module in self.model.named_modules():
            self._watch(name, module)

    def _watch(self, name: str, module: nn.Module) -> None:
        state: Dict[str, Any] = {}

        # Functions, not methods: copies of the network (averaged weights) call them
        # too, and must not be recorded.
        def begin(
            module_: nn.Module,
            weights: Mapping[str, Tensor],
            prefix: str,
            metadata: Any,
            strict: bool,
            missing: List[str],
            unexpected: List[str],
            errors: List[str],
        ) -> None:
            if module_ is module and not prefix:
                given = {
                    key: tuple(value.shape)
                    for key, value in weights.items()
                    if isinstance(value, Tensor)
                }
                state.update(load=Load(name, given), errors=errors)

        def end(module_: nn.Module, keys: Any) -> None:
            if module_ is module and 'load' in state:
                load, errors = state.pop('load'), state.pop('errors')
                self._finish(module, load, keys, errors)

        register = module._register_load_state_dict_pre_hook
        self._handles += [
            register(begin, with_module=True),
            module.register_load_state_dict_post_hook(end),
        ]

    def _finish(
        self, module: nn.Module, load: Load, keys: Any, errors: List[str]
    ) -> None:
        own = learned(module)
        missing = set(keys.missing_keys)
        load.missing = [name for name in own if name in missing]
        load.unexpected = list(keys.unexpected_keys)
        found = (_SIZE_MISMATCH.search(error) for error in errors)
        load.mismatched = [match[1] for match in found if match]
        lost = missing.union(load.mismatched)
        load.arrived = {n: _number(t) for n, t in own.items() if n not in lost}
        self.loads.append(load)

    def close(self) -> None:
        """Stop recording."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def arrived(self) -> Tuple[Set[str], Set[str]]:
        """Names of the network's learned tensors that came from a file.

        Returns:
            Those that are still as loaded, and those changed since.
        """
        numbers: Dict[str, float] = {}
        for load in self.loads:
            prefix = f'{load.name}.' if load.name else ''
            numbers.update((prefix + n, v) for n, v in load.arrived.items())
        kept: Set[str] = set()
        changed: Set[str] = set()
        for name, tensor in learned(self.model).items():
            if name in numbers:
                before, now = numbers[name], _number(tensor)
                near = math.isclose(
                    before, now, rel_tol=1e-6, abs_tol=1e-6 * tensor.numel()
                ) or not (math.isfinite(before) or math.isfinite(now))
                (kept if near else changed).add(name)
        return kept, changed


def _number(tensor: Tensor) -> float:
    return tensor.detach().double().sum().item()


def _named(names: List[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more


def _backbone_of(shapes: Mapping[str, Any]) -> Dict[str, Any]:
    """The part below ``backbone`` if there is one, else everything."""
    found = {name: shape for name, shape in shapes.items() if _BACKBONE.search(name)}
    return found or dict(shapes)


def check_load(model: nn.Module, load: Load, path: str, exact: bool = True) -> None:
    """Refuse a checkpoint that belongs to another network.

    Args:
        model (nn.Module): The network.
        load (Load): Outcome of loading the checkpoint.
        path (str): The checkpoint, for the error.
        exact (bool): Whether every parameter and running statistic must be present
            with its shape, and the backbone must have no others. Otherwise only the
            backbone must fit (without one, the whole network); heads may differ.
            Defaults to True.

    Raises:
        UserError: The weights do not fit; the first culprits are named.
    """
    own = {name: tuple(tensor.shape) for name, tensor in learned(model).items()}
    has_backbone = any(map(_BACKBONE.search, own))
    if not load.arrived and has_backbone:
        alone = {_BACKBONE.split(name)[-1] for name in own if _BACKBONE.search(name)}
        if alone.intersection(load.given):
            raise UserError(
                f'checkpoint {path} has the names of a backbone alone; name it as its '
                "init_cfg: model.backbone.init_cfg=dict(type='Pretrained', "
                'checkpoint=...)'
            )
    problems = []
    if exact:
        extra = [n for n in load.unexpected if not has_backbone or _BACKBONE.search(n)]
        if load.mismatched:
            shapes = [
                f'{n} is {load.given.get(n)}, not {own.get(n)}' for n in load.mismatched
            ]
            problems.append(f'{len(shapes)} shapes differ: {_named(shapes)}')
        if load.missing:
            problems.append(
                f'{len(load.missing)} of {len(own)} are missing: {_named(load.missing)}'
            )
        # An attention module that the network lacks would go unnoticed.
        if extra and (has_backbone or problems):
            problems.append(f'{len(extra)} have no place: {_named(extra)}')
    else:
        core = _backbone_of(own)
        given = _backbone_of(load.given)
        units = {name: core.pop(name) for name in list(core) if _RLA.search(name)}
        plain = {n: s for n, s in given.items() if not _RLA.search(n)}
        reason = misfit(core, plain, set(core).intersection(load.arrived))
        if reason is None and len(plain) < len(given):
            reason = other_units(units, given)
        problems += [reason] if reason else []
    if problems:
        raise UserError(
            f'checkpoint {path} belongs to another network than the config: '
            f'{"; ".join(problems)}; take the config that it was trained with '
            f'({_CONVERT})'
        )


def load_weights(
    model: nn.Module, weights: Mapping[str, Tensor], path: str, exact: bool = True
) -> None:
    """Load weights into a network; refuse those of another network.

    Args:
        model (nn.Module): The network.
        weights: The weights by name.
        path (str): Their source, for the error.
        exact (bool): As for :func:`check_load`. Defaults to True.

    Raises:
        UserError: They do not fit.
    """
    arrivals = Arrivals(model)
    try:
        load_state_dict(arrivals.model, dict(weights), logger='silent')
    finally:
        arrivals.close()
    check_load(arrivals.model, arrivals.loads[-1], path, exact)


def pretrained_cfgs(cfg: Any, key: str) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """Every ``dict(type='Pretrained', checkpoint=...)`` in a config, with its key."""
    if isinstance(cfg, Mapping):
        if 'checkpoint' in cfg and is_pretrained(cfg):
            yield key, dict(cfg)
        for name, value in cfg.items():
            yield from pretrained_cfgs(value, f'{key}.{name}')
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from pretrained_cfgs(value, f'{key}.{index}')


def _source(module: nn.Module) -> Optional[str]:
    """The checkpoint that a module's config names."""
    found = list(pretrained_cfgs(getattr(module, 'init_cfg', None), ''))
    if found:
        return str(found[-1][1]['checkpoint'])
    pretrained = getattr(module, 'pretrained', None)  # as mmdet's DetectoRS
    is_config = isinstance(getattr(module, 'init_cfg', None), (dict, list))
    return pretrained if is_config and isinstance(pretrained, str) else None


def check_pretrained(arrivals: Arrivals) -> None:
    """Judge whether the pretrained weights named by modules arrived.

    RLA backbones judge their own on loading.

    Args:
        arrivals (Arrivals): What was loaded into the network.

    Raises:
        UserError: They belong to another network, or were not loaded at all.
    """
    kept, changed = arrivals.arrived()
    for name, module in arrivals.model.named_modules():
        source = None if isinstance(module, RLA) else _source(module)
        if source is None:
            continue
        prefix = f'{name}.' if name else ''
        own = {n: tuple(t.shape) for n, t in learned(module).items()}
        arrived = {n for n in own if prefix + n in kept}
        overwritten = [n for n in own if prefix + n in changed]
        loads = [load for load in arrivals.loads if load.name == name]
        first = arrivals.loads.index(loads[0]) + 1 if loads else 0
        whole = [load for load in arrivals.loads[first:] if not load.name]
        if whole and {prefix + n for n in own} <= set(whole[-1].arrived):
            continue  # a checkpoint of the whole network provided them all
        given = loads[0].given if loads else {}
        if any(map(_BACKBONE.search, own)):
            own, given = _backbone_of(own), _backbone_of(given)
        where = f'{source}, init_cfg of {name or "model"},'
        if not loads and not arrived and not overwritten:
            raise UserError(
                f'checkpoint {where} was not loaded: {type(module).__name__} or a '
                'module above it does not call init_weights of what is in it; name the '
                'weights in the init_cfg of a module that does, or with load_from'
            )
        reason = misfit(own, given, set(own).intersection({*arrived, *overwritten}))
        if reason:
            raise UserError(
                f'checkpoint {where} belongs to another network than the config: '
                f'{reason}'
            )
        if overwritten:
            print_log(
                f'{len(overwritten)} tensors of checkpoint {where} were overwritten '
                f'after it was loaded: {_named(overwritten)}; write '
                "init_cfg=dict(type='Pretrained', checkpoint=...), nothing else",
                logger='current',
                level=30,
            )
        wrong = [n for load in loads[:1] for n in load.mismatched]
        wrong = [n for n in wrong if n in own and n not in arrived]
        if wrong:
            print_log(
                f'checkpoint {where} has other shapes of {_named(wrong)}: they start '
                'as drawn',
                logger='current',
                level=30,
            )
