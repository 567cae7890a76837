# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Layers that plug into blocks."""

from .attention import CBAM, ChannelAttention, ECALayer, SELayer

__all__ = ['CBAM', 'ChannelAttention', 'ECALayer', 'SELayer']
