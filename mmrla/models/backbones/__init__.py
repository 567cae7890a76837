# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones, one architecture a file."""

from .rla_resnet import RLAResNet

__all__ = ['RLAResNet']
