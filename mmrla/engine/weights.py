# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Whether the weights in a checkpoint are those of a network."""

import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from torch import Tensor, nn

from ..errors import UserError
from ..models.pretrained import is_pretrained
from ..models.rla import RLA

__all__ = ['check_weights', 'pretrained_cfgs', 'watch_pretrained']

# Of the names of a backbone and those of a file, how many must be in both: ResNet-101
# and ResNet-152 share 66%, a backbone with and without an attention module 80%.
_SHARED_NAMES = 0.75
_RLA = re.compile(r'(^|\.)rla\.\d+\.')
_CONVERT = (
    'weights of the released RLANet files are converted with '
    'tools/model_converters/rlanet_to_mmrla.py'
)


def _learned(model: nn.Module) -> Dict[str, Tensor]:
    """What training makes: parameters and running statistics, by name."""
    learned: Dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in model.state_dict().items():
        if name.endswith(('.running_mean', '.running_var')):
            learned[name] = tensor
    return learned


def _named(names: List[str]) -> str:
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return ', '.join(names[:3]) + more


def check_weights(
    model: nn.Module, weights: Mapping[str, Tensor], path: str, exact: bool = True
) -> None:
    """Refuse weights that belong to another network.

    Args:
        model (nn.Module): The network.
        weights: The checkpoint's tensors by name.
        path (str): The checkpoint, for the error.
        exact (bool): Whether every parameter and running statistic must be there
            with its shape, and the backbone have no others. Otherwise this is
            asked of the shapes in the backbone (in the whole network if it has
            none of that name), and most names must be the same. Defaults to True.

    Raises:
        UserError: The weights do not fit; the first culprits are named.
    """
    learned = _learned(model)
    if not exact and not any('rla.' in name for name in weights):
        # A plain network's, which leave RLA as it was drawn.
        learned = {n: t for n, t in learned.items() if not _RLA.search(n)}
    prefix = 'backbone.'
    if not any(name.startswith(prefix) for name in learned):
        prefix = ''
    own = {n: t for n, t in learned.items() if exact or n.startswith(prefix)}

    shapes = [
        f'{name} is {tuple(weights[name].shape)}, not {tuple(tensor.shape)}'
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    missing = [name for name in own if name not in weights]
    everything = model.state_dict()
    if missing == list(own) and any(prefix + name in own for name in weights):
        raise UserError(
            f'checkpoint {path} has the names of a backbone alone; name it as its '
            "init_cfg: model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
    if not prefix and any(f'backbone.{name}' in weights for name in own):
        raise UserError(
            f'checkpoint {path} is of a whole network: add '
            "prefix='backbone.' to init_cfg"
        )
    extra = [n for n in weights if n.startswith(prefix) and n not in everything]
    core = sum(name.startswith(prefix) for name in own)
    shared = sum(name.startswith(prefix) and name in weights for name in own)
    other = shared < _SHARED_NAMES * max(core, shared + len(extra))

    if exact:
        # An attention module that the network lacks would go unnoticed.
        other = other or bool(missing or (prefix and extra))
    if not (shapes or other):
        return
    problems = []
    if shapes:
        problems.append(f'{len(shapes)} shapes differ: {_named(shapes)}')
    if missing:
        problems.append(f'{len(missing)} of {len(own)} are missing: {_named(missing)}')
    if extra:
        problems.append(f'{len(extra)} have no place: {_named(extra)}')
    raise UserError(
        f'checkpoint {path} belongs to another network than the config: '
        f'{"; ".join(problems)}; take the config that it was trained with ({_CONVERT})'
    )


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


def watch_pretrained(model: nn.Module) -> None:
    """Judge what ``init_cfg`` loads into modules, whatever its source.

    RLA backbones judge it themselves. The weights are compared when they arrive:
    those that belong to another network raise as :func:`check_weights` does.

    Args:
        model (nn.Module): The network, before its weights are initialised.
    """
    for name, module in model.named_modules():
        cfgs = [c for _, c in pretrained_cfgs(getattr(module, 'init_cfg', None), name)]
        if cfgs and not isinstance(module, RLA):
            source = f'{cfgs[0]["checkpoint"]}, init_cfg of {name or "model"},'
            module._register_load_state_dict_pre_hook(_judge(module, source))


def _judge(module: nn.Module, source: str) -> Callable[..., None]:
    def hook(state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        if not prefix:  # as a part of the model it is a checkpoint's that is loaded
            check_weights(module, state_dict, source, exact=False)

    return hook
