# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
# Registers mmrla's modules, so that configs name them without a scope.
custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
