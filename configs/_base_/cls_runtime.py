# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
_base_ = ['mmpretrain::_base_/default_runtime.py', 'rla.py']
