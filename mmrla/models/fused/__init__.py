# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Forms of the same networks that compute the same numbers faster.

Chosen from outside, never by the network itself: :func:`switch_to_deploy` for
inference, :func:`switch_to_fused_training` for training.
"""

from .deploy import switch_to_deploy
from .training import switch_to_fused_training

__all__ = ['switch_to_deploy', 'switch_to_fused_training']
