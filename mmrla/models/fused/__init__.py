# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Faster forms of the same networks, with the same outputs up to rounding.

A network never switches by itself. Call :func:`switch_to_deploy` for inference or
:func:`switch_to_fused_training` for training.
"""

from .deploy import switch_to_deploy
from .training import switch_to_fused_training

__all__ = ['switch_to_deploy', 'switch_to_fused_training']
