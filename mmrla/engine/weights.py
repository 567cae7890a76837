# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Whether the weights in a checkpoint are those of a network."""

from typing import Any, Dict, Iterator, List, Mapping, Tuple

from torch import Tensor, nn

from .checkpoint_io import is_local, load_foreign, state_dict_of
from .errors import UserError

__all__ = ['check_pretrained', 'check_weights', 'pretrained_cfgs']

# Of the names of a backbone and those of a file, how many must be in both: ResNet-101
# and ResNet-152 share 66%, a backbone with and without an attention module 80%.
_SHARED_NAMES = 0.75
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
        name = cfg.get('type')
        name = name if isinstance(name, str) else getattr(name, '__name__', '')
        if name in ('Pretrained', 'PretrainedInit') and 'checkpoint' in cfg:
            yield key, dict(cfg)
        for name, value in cfg.items():
            yield from pretrained_cfgs(value, f'{key}.{name}')
    elif isinstance(cfg, (list, tuple)):
        for index, value in enumerate(cfg):
            yield from pretrained_cfgs(value, f'{key}.{index}')


def check_pretrained(model: nn.Module) -> None:
    """Refuse pretrained weights (``init_cfg``) of another network.

    Raises:
        UserError: As for :func:`check_weights`.
    """
    for name, module in model.named_modules():
        found = pretrained_cfgs(getattr(module, 'init_cfg', None), name or 'model')
        for _, init_cfg in found:
            path, prefix = init_cfg['checkpoint'], init_cfg.get('prefix') or ''
            if not is_local(path):
                continue
            weights = state_dict_of(load_foreign(path), path)
            prefix += '.' if prefix and not prefix.endswith('.') else ''
            own = {
                n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)
            }
            if not own:
                raise UserError(
                    f'checkpoint {path}, init_cfg of {name}, has nothing under '
                    f'{prefix!r}, only {_named(list(weights))} ({_CONVERT})'
                )
            check_weights(module, own, path, exact=False)
