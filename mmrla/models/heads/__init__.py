# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Heads of classifiers, for mmpretrain."""

from .rla_head import RLALinearClsHead

__all__ = ['RLALinearClsHead']
