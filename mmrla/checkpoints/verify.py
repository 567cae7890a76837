# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Check what a checkpoint computes: outputs and statistics."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..engine.checkpoint_io import CheckpointError, PathLike
from ..engine.weights import load_weights
from .convert import build_model

#: Remark on a norm with its initial statistics.
UNTRAINED = 'has never seen data (mean 0, variance 1)'

#: Golden files have every eighth channel of the stage outputs.
FEATURE_STEP = 8


@dataclass
class Report:
    """Result of :func:`verify`.

    Attributes:
        outputs: The network's outputs: class scores under the network's name, stage
            outputs under ``NAME:feat0`` to ``NAME:feat3``.
        differences: For each golden output the largest absolute difference divided
            by the largest absolute value.
        suspicious: (tensor or layer, what looks wrong).
    """

    outputs: Dict[str, np.ndarray]
    differences: Dict[str, float] = field(default_factory=dict)
    suspicious: List[Tuple[str, str]] = field(default_factory=list)


def example_input(shape: Sequence[int]) -> Tensor:
    """The fixed input: standard normal numbers of NumPy's generator, seed 0."""
    values = np.random.RandomState(0).standard_normal(tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def carried_config(checkpoint: Any, path: PathLike) -> Config:
    """The config stored as text in a checkpoint's meta.

    Args:
        checkpoint: The object in a checkpoint.
        path: The checkpoint's file, for the error.

    Raises:
        CheckpointError: If there is none.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise CheckpointError(f'{path}: carries no config; name one: --config')
    return Config.fromstring(text, '.py')


def network_of(
    checkpoint: Mapping[str, Any], path: PathLike, cfg: Optional[Config] = None
) -> nn.Module:
    """The network of a checkpoint with its weights, in eval mode.

    Its backbone returns the outputs of all stages.

    Args:
        checkpoint: The object in a checkpoint.
        path: The checkpoint's file, for errors.
        cfg: Its config; by default the one stored in the checkpoint.

    Raises:
        UserError: If there is no config, or the weights do not fit.
    """
    cfg = carried_config(checkpoint, path) if cfg is None else cfg
    cfg.model.backbone.init_cfg = None
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = build_model(cfg)
    load_weights(model, checkpoint['state_dict'], str(path))
    if getattr(model, 'head', None) is not None:  # a classifier's backbone returns one
        model.backbone.out_indices = tuple(range(max(model.backbone.out_indices) + 1))
    return model.eval()


def verify(
    model: nn.Module,
    name: str,
    inputs: Tensor,
    golden: Optional[Mapping[str, np.ndarray]] = None,
) -> Report:
    """Run a network and check its outputs, weights and norms.

    Args:
        model: A classifier of mmpretrain or a detector of mmdet, in eval mode.
        name: Its name in the golden file.
        inputs: Images (N, C, H, W), normalised.
        golden: Outputs to compare with, by name.

    Returns:
        The report. Suspicious are layers and weights with NaN, infinity or nothing
        but zeros, and norms that have seen no data.
    """
    report = Report(outputs={})
    hooks = [
        module.register_forward_hook(_watch(report, layer))
        for layer, module in model.named_modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        features = model.backbone(inputs)
        if hasattr(model, 'head') and model.head is not None:
            pooled = model.neck(features) if model.neck is not None else features
            report.outputs[name] = model.head(pooled).numpy()
    for hook in hooks:
        hook.remove()
    hidden = int(getattr(model.backbone, 'return_hidden', False))
    for i, feature in enumerate(features[: len(features) - hidden]):
        report.outputs[f'{name}:feat{i}'] = feature[:, ::FEATURE_STEP].numpy()
    report.suspicious += suspicious_weights(model.state_dict())
    for key, expected in (golden or {}).items():
        if key in report.outputs:
            report.differences[key] = _difference(report.outputs[key], expected)
    return report


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise CheckpointError(
            f'outputs {found.shape} and golden outputs {expected.shape} differ in shape'
        )
    largest = np.abs(expected).max()
    return float(np.abs(found - expected).max() / largest)


def _watch(report: Report, layer: str) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        # The first block reads h_0 = 0.
        nonzero = any(isinstance(x, Tensor) and bool(x.any()) for x in inputs)
        if isinstance(output, Tensor) and nonzero:
            problem = _problem(output)
            if problem:
                report.suspicious.append((layer, f'output {problem}'))

    return hook


def _problem(value: Tensor) -> Optional[str]:
    if not torch.isfinite(value).all():
        return 'has NaN or infinity'
    return None if value.any() else 'is all zero'


def suspicious_weights(weights: Mapping[str, Tensor]) -> List[Tuple[str, str]]:
    """Weights that look wrong, each with the reason.

    Args:
        weights: A state dict.
    """
    found = []
    for name, value in weights.items():
        if not value.is_floating_point():
            continue
        stem = name.rpartition('.')[0]
        problem = _problem(value)
        if problem and not (problem == 'is all zero' and _may_be_zero(name)):
            found.append((name, problem))
        elif name.endswith('.running_var'):
            if (value < 0).any():
                found.append((name, 'has negative values'))
            elif (value == 1).all() and not weights[f'{stem}.running_mean'].any():
                found.append((stem, UNTRAINED))
    return found


def _may_be_zero(name: str) -> bool:
    """Whether zeros are normal: biases and means start from them."""
    return name.endswith(('.bias', '.running_mean'))
