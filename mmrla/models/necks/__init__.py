# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Necks."""

from .rla_neck import RLANeck

__all__ = ['RLANeck']
