# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Registries of this package.

The classes are registered in MMEngine's root registries, so that a bare
``type='RLAResNet'`` is found from every scope once ``mmrla`` is imported
(``custom_imports``). The child registries below add the scoped name:
``type='mmrla.RLAResNet'`` makes MMEngine import this module, which imports the
package, from an mmdet, an mmpretrain or a bare MMEngine config alike.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'HOOKS', 'MODELS']

MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['mmrla.models'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, locations=['mmrla.datasets'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['mmrla.engine'])
