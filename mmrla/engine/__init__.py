# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What the tools share: hooks, safe files, process set-up, checks of input."""

from .fused_hook import DeployHook, FusedTrainingHook
from .hooks import CheckpointFitHook, SafeCheckpointHook, StepSeedHook

__all__ = [
    'CheckpointFitHook',
    'DeployHook',
    'FusedTrainingHook',
    'SafeCheckpointHook',
    'StepSeedHook',
]
