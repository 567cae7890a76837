# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Images from files, and their preparation for a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor

from ..engine.data import leaf_datasets
from ..errors import UserError
from ..registry import default_scope, type_name
from .networks import input_shape

__all__ = ['Picture', 'prepare', 'read_image']


@dataclass(frozen=True)
class Picture:
    """A picture, prepared for a network.

    Attributes:
        image: RGB, uint8, (H, W, 3): resized and cropped, not yet normalised.
        inputs: Input of the network's forward, (1, C, H', W').
        data_samples: The samples that belong to it.
    """

    image: np.ndarray
    inputs: Tensor
    data_samples: List[Any]


def read_image(path: str) -> np.ndarray:
    """Read an image file as RGB, uint8, (H, W, 3).

    Raises:
        UserError: If the file is missing or no image.
    """
    try:
        image = mmcv.imread(path)
    except FileNotFoundError:
        raise UserError(f'image {path} does not exist') from None
    if image is None:
        raise UserError(f'{path} cannot be read as an image')
    return mmcv.bgr2rgb(image)


def prepare(cfg: Config, model: Any, image: np.ndarray) -> Picture:
    """Apply a config's test pipeline and its network's preprocessing.

    Args:
        cfg: The config.
        model: Its network.
        image: RGB, uint8, (H, W, 3). It is resized to the data set's image size
            if that does not read image files (CIFAR).
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise UserError(f'{cfg.filename} has no test_dataloader')
    (_, dataset), *_ = leaf_datasets(loader.dataset, '')
    kinds = [type_name(step) for step in dataset.pipeline]
    from_files = any(kind.startswith('LoadImage') for kind in kinds)
    if from_files:
        image = mmcv.rgb2bgr(image)  # as upstream reads files
    else:
        height, width = input_shape(cfg)
        image = mmcv.imresize(image, (width, height))
    steps = [
        s for s, kind in zip(dataset.pipeline, kinds) if not kind.startswith('Load')
    ]
    shape = image.shape[:2]
    item = dict(img=image, img_id=0, img_path='', img_shape=shape, ori_shape=shape)
    with default_scope(cfg):
        batch = pseudo_collate([Compose(steps)(item)])
        shown = batch['inputs'][0].permute(1, 2, 0).numpy()
        data = model.data_preprocessor(batch, False)
    shown = mmcv.bgr2rgb(shown) if from_files else shown
    return Picture(
        np.ascontiguousarray(shown), data['inputs'], data.get('data_samples') or []
    )
