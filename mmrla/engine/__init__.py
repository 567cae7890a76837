# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Shared by the tools: hooks, crash-safe files, process set-up, checks of input."""

from .fused_hook import DeployHook, FusedTrainingHook
from .hooks import SafeCheckpointHook, StepSeedHook
from .layer_decay import LayerDecayConstructor
from .start import StartHook

__all__ = [
    'DeployHook',
    'FusedTrainingHook',
    'LayerDecayConstructor',
    'SafeCheckpointHook',
    'StartHook',
    'StepSeedHook',
]
