# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# MMPretrain's runtime with mmrla's modules registered, so that configs name
# them without a scope.
_base_ = 'mmpretrain::_base_/default_runtime.py'

custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
