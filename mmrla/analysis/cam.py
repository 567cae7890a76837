# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Grad-CAM for classifiers and detectors, with the package grad-cam.

For a classifier the target is a class and the layer is the last norm of the backbone,
as in mmpretrain's ``vis_cam``. For a detector the target is the scores of the objects
found and the layers are the last norms of the stages that feed the neck.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.utils.dl_utils import is_norm
from torch import Tensor, nn

from ..errors import UserError
from .images import Picture
from .networks import is_detector

__all__ = ['explain', 'target_layers']


def _last_norm(name: str, module: nn.Module) -> Tuple[str, nn.Module]:
    norms = [(n, m) for n, m in module.named_modules(prefix=name) if is_norm(m)]
    if not norms:
        raise UserError(f'{name} has no norm; name layers: --layers NAME ...')
    return norms[-1]


def target_layers(model: Any, names: Sequence[str] = ()) -> List[Tuple[str, nn.Module]]:
    """The layers whose activations are weighted, with their names.

    The RLA unit of a stage is registered before its blocks, so the last norm is
    one of the main network.

    Args:
        model: A classifier or detector.
        names: Names of modules in it; by default those of the module's docstring.

    Raises:
        UserError: If there is no such module.
    """
    modules = dict(model.named_modules())
    for name in names:
        if name not in modules:
            near = [n for n in modules if n.startswith(name.split('.')[0])][:5]
            raise UserError(f'--layers {name}: no such module; some are {near}')
    if names:
        return [(name, modules[name]) for name in names]
    backbone = model.backbone
    if not is_detector(model):
        return [_last_norm('backbone', backbone)]
    stages = [n for n, _ in backbone.named_children() if n.startswith('layer')]
    picked = [n for i, n in enumerate(stages) if i in backbone.out_indices]
    return [_last_norm(f'backbone.{n}', getattr(backbone, n)) for n in picked] or [
        _last_norm('backbone', backbone)
    ]


class _Scores(nn.Module):
    """Scores of the classes (1, K), or of the objects found (1, n)."""

    def __init__(self, model: Any, picture: Picture) -> None:
        super().__init__()
        self.model = model
        self.data_samples = picture.data_samples

    def forward(self, inputs: Tensor) -> Tensor:
        if not is_detector(self.model):
            return self.model(inputs, mode='tensor')
        (found,) = self.model(inputs, self.data_samples, mode='predict')
        return found.pred_instances.scores[None]


def explain(
    model: Any,
    picture: Picture,
    category: Optional[int] = None,
    layers: Sequence[str] = (),
    min_score: float = 0.3,
) -> Tuple[np.ndarray, str]:
    """Grad-CAM of a picture.

    Args:
        model: A classifier or detector, in eval mode.
        picture: The picture, prepared for it.
        category: The class to explain, by default the predicted one; for a
            detector the class of the objects, by default all classes.
        layers: Names of modules; see :func:`target_layers`.
        min_score: Least score of a detector's objects. Defaults to 0.3.

    Returns:
        The map (H', W') of the network's input, in [0, 1], and what was
        explained.

    Raises:
        UserError: If grad-cam is not installed, the class or a layer does not
            exist, or a detector finds nothing or gives no gradients.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        raise UserError("Grad-CAM needs grad-cam: pip install 'mmrla[look]'") from None
    targets = [layer for _, layer in target_layers(model, layers)]
    scores = _Scores(model, picture)
    # Frozen stages have gradients too.
    for param in model.parameters():
        param.requires_grad_(True)
    if is_detector(model):
        with torch.no_grad():
            (found,) = model(picture.inputs, picture.data_samples, mode='predict')
        with torch.enable_grad():
            if not scores(picture.inputs).requires_grad:
                raise UserError(
                    f'{type(model).__name__}: its head computes scores without '
                    'gradients, as the one-stage heads of mmdet do; Grad-CAM takes '
                    'two-stage detectors and classifiers'
                )
        keep = found.pred_instances.scores >= min_score
        if category is not None:
            keep &= found.pred_instances.labels == category
        count = int(keep.sum())
        if not count:
            kind = '' if category is None else f' of class {category}'
            raise UserError(f'no object{kind} with a score of {min_score} or more')
        what = f'{count} object{"s" if count > 1 else ""} found'
        target: Any = lambda output: output[keep].sum()  # noqa: E731
    else:
        with torch.no_grad():
            before = scores(picture.inputs)[0]
        category = int(before.argmax()) if category is None else category
        if not 0 <= category < len(before):
            raise UserError(
                f'class {category} is not in the range 0 to {len(before) - 1}'
            )
        classes = model.dataset_meta.get('classes')
        name = classes[category] if classes else f'class {category}'
        what = f'{name} {before.softmax(0)[category]:.2f}'
        target = ClassifierOutputTarget(category)
    with GradCAM(scores, targets) as cam, torch.enable_grad():
        return cam(picture.inputs, [target])[0], what
