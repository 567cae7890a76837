# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Registries of this package.

A bare ``type='RLAResNet'`` is found from every scope once ``mmrla`` is imported
(``custom_imports``): MMEngine's root registry has the backbones over mmdet's
networks, mmpretrain's registry those over mmpretrain's. The child registries below
add the scoped name: ``type='mmrla.RLAResNet'`` makes MMEngine import this module,
which imports the package, and means what the bare name does.
"""

from typing import Optional, Type

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import DefaultScope, Registry

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'OPTIM_WRAPPER_CONSTRUCTORS']


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
