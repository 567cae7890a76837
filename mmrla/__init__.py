# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-Net (recurrent layer aggregation) for MMDetection and MMPretrain.

Importing the package checks the versions of the installed stack and registers
the models. It needs neither mmdet nor mmpretrain.
"""

# ruff: noqa: E402  (the version check comes before what it protects)
from .compat import VersionConflictError, check_versions
from .version import __version__

check_versions()

from mmengine.config.utils import MODULE2PACKAGE

from . import models, registry

# Lets configs inherit from `mmrla::...`. MMEngine looks the value up as a
# distribution first, which for an editable install points where no package is,
# then as a module, taking the folder it lies in: that is right for any install.
MODULE2PACKAGE['mmrla'] = f'{__name__}.version'

__all__ = ['VersionConflictError', '__version__', 'models', 'registry']
