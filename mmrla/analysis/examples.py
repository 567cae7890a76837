# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Example images of a data set, with networks' predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from ..engine.layout import build_dataset
from . import plots
from .images import prepare, read_image
from .networks import is_detector

__all__ = ['Example', 'examples_of', 'predict']


@dataclass(frozen=True)
class Example:
    """An image of a data set.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        drawn: The same, with the annotated objects.
        truth: Its class, or the number of objects.
    """

    image: np.ndarray
    drawn: np.ndarray
    truth: str


#: Side below which images with objects are enlarged, so that labels can be read.
_SMALL = 240


def _draw(image: np.ndarray, instances: Any, classes: Sequence[str]) -> np.ndarray:
    """Boxes, masks and labels by mmdet's visualizer."""
    from mmdet.structures import DetDataSample
    from mmdet.visualization import DetLocalVisualizer

    factor = -(-_SMALL // min(image.shape[:2]))
    if factor > 1:
        image = image.repeat(factor, 0).repeat(factor, 1)
        instances = instances.clone()
        instances.bboxes = instances.bboxes * factor
        if 'masks' in instances:
            masks = instances.masks.repeat_interleave(factor, 1)
            instances.masks = masks.repeat_interleave(factor, 2)
    visualizer = DetLocalVisualizer(line_width=max(1, min(image.shape[:2]) // 160))
    visualizer.dataset_meta = plots.with_palette(dict(classes=tuple(classes)))
    predicted = 'scores' in instances
    sample = DetDataSample()
    setattr(sample, 'pred_instances' if predicted else 'gt_instances', instances)
    visualizer.add_datasample(
        'example',
        image,
        sample,
        draw_gt=not predicted,
        draw_pred=predicted,
        pred_score_thr=0,
    )
    return visualizer.get_image()


def _objects(count: int) -> str:
    return f'{count} object' if count == 1 else f'{count} objects'


def _example(info: Any, classes: Sequence[str]) -> Example:
    image = info['img'] if 'img' in info else read_image(info['img_path'])
    if 'instances' not in info:
        label = info.get('gt_label')
        known = label is not None and np.ndim(label) == 0
        return Example(image, image, classes[int(label)] if known else 'no class')
    there = [i for i in info['instances'] if not i.get('ignore_flag')]
    instances = InstanceData(
        bboxes=torch.tensor([i['bbox'] for i in there]).reshape(-1, 4).float(),
        labels=torch.tensor([i['bbox_label'] for i in there], dtype=torch.long),
    )
    return Example(image, _draw(image, instances, classes), _objects(len(there)))


def examples_of(cfg: Config, count: int) -> List[Example]:
    """Images of a config's validation set, evenly spaced.

    Args:
        cfg: The config.
        count: How many at most.

    Raises:
        UserError: If there is no such set, or its files are missing.
    """
    dataset = build_dataset(cfg, 'val')
    classes = dataset.metainfo['classes']
    indices = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    return [_example(dataset.get_data_info(int(i)), classes) for i in indices]


@torch.no_grad()
def predict(
    cfg: Config, model: Any, image: np.ndarray, min_score: float = 0.3
) -> Tuple[np.ndarray, str]:
    """A network's predictions for an image.

    Args:
        cfg: Its config.
        model: The network, from :func:`mmrla.analysis.networks.load_network`.
        image: RGB, uint8, (H, W, 3).
        min_score: Least score of objects. Defaults to 0.3.

    Returns:
        The image (for a detector with the objects found) and a line of text.
    """
    picture = prepare(cfg, model, image)
    classes = model.dataset_meta.get('classes') or ()
    if not is_detector(model):
        scores = model(picture.inputs, mode='tensor')[0].softmax(0)
        best = scores.topk(min(3, len(scores)))
        named = [
            f'{classes[i] if classes else f"class {i}"} {score:.2f}'
            for score, i in zip(best.values.tolist(), best.indices.tolist())
        ]
        return image, ', '.join(named)
    (found,) = model(picture.inputs, picture.data_samples, mode='predict')
    instances = found.pred_instances
    instances = instances[instances.scores >= min_score]
    drawn = _draw(image, instances, classes)
    return drawn, f'{_objects(len(instances))} found'
