# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Attention modules, plugins and recurrent cells."""

from .attention import CBAM, ChannelAttention, ECALayer, SELayer

__all__ = ['CBAM', 'ChannelAttention', 'ECALayer', 'SELayer']
