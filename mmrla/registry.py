# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Registries of this package, and how a config finds the classes that it names.

A bare ``type='RLAResNet'`` is found from every scope once ``mmrla`` is imported
(``custom_imports``): MMEngine's root registry has the backbones over mmdet's
networks, mmpretrain's registry those over mmpretrain's. The child registries below
add the scoped name: ``type='mmrla.RLAResNet'`` makes MMEngine import this module,
which imports the package, and means what the bare name does.
"""

from typing import Any, ContextManager, Optional, Type

from mmengine.config import Config
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import DefaultScope, Registry

__all__ = [
    'DATASETS',
    'HOOKS',
    'MODELS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'class_of',
    'default_scope',
    'type_name',
]


class _ModelRegistry(Registry):
    """Finds a name as the library does whose config is being built."""

    def get(self, key: str) -> Optional[Type]:
        """The class of a name, without scope, in the library's registry."""
        self.import_from_location()
        scope = DefaultScope.get_current_instance()
        library = MMENGINE_MODELS.children.get(scope.scope_name if scope else '')
        if library is None or library is self:
            return super().get(key)
        return library.get(key)


MODELS = _ModelRegistry('model', parent=MMENGINE_MODELS, locations=['mmrla.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, locations=['mmrla.datasets'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['mmrla.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    locations=['mmrla.engine'],
)


def type_name(cfg: Any) -> str:
    """The bare class name that a config (text or pure Python) builds."""
    kind = cfg.get('type', '')
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rsplit('.', 1)[-1]


def class_of(cfg: Any, registry: Registry, scope: Optional[str] = None) -> Any:
    """The class that a config (text or pure Python) builds.

    Args:
        cfg: A config with a type.
        registry: Where a name is looked up.
        scope: Whose names come first; by default the scope that holds.

    Returns:
        The class, or None if there is none of that name.
    """
    kind = cfg.get('type')
    if isinstance(kind, str):
        with registry.switch_scope_and_registry(scope) as found:
            return found.get(kind)
    return kind


def default_scope(cfg: Config) -> ContextManager[None]:
    """The registry scope that MMEngine's runner gives a config.

    ``default_scope=None``, as pure-Python configs have it, is no scope: modules of
    mmdet and mmpretrain then look in their own registries.
    """
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine'))
