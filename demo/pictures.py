# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The demo's pictures: predictions beside the ground truth."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import cv2
import matplotlib

matplotlib.use('Agg')  # no display is needed, or asked for

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mmrla.analysis.plots import class_colours

__all__ = ['draw_predictions']

COLOURS = [tuple(v / 255 for v in colour) for colour in class_colours(10)]


class _Object(NamedTuple):
    label: int
    text: str
    box: Tuple[float, float, float, float]
    mask: np.ndarray


def _draw_objects(
    axes: Axes, image: np.ndarray, objects: List[_Object], title: str
) -> None:
    """Draws an image with boxes, masks and labels.

    Args:
        axes: Where to draw.
        image: RGB image, uint8 of shape (H, W, 3).
        objects: What to draw; boxes are (x, y, width, height) in pixels.
        title: Heading.
    """
    height, width = image.shape[:2]
    # Greyed: colours are to say the classes, and the digits have their own.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] / 255
    canvas = 0.55 * grey + 0.35 * image / 255 + 0.05
    for item in objects:
        canvas[item.mask] = 0.35 * canvas[item.mask] + 0.65 * np.array(
            COLOURS[item.label]
        )
    axes.imshow(canvas.clip(0, 1), interpolation='nearest')
    for item in objects:
        x, y, box_width, box_height = item.box
        colour = COLOURS[item.label]
        axes.add_patch(
            Rectangle(
                (x - 0.5, y - 0.5), box_width, box_height, fill=False, ec=colour, lw=1.5
            )
        )
        above = y > 10
        axes.text(
            x - 0.5,
            y - 1 if above else y + box_height,
            item.text,
            color='black' if 0.3 * colour[0] + 0.6 * colour[1] > 0.55 else 'white',
            fontsize=8,
            va='bottom' if above else 'top',
            bbox=dict(boxstyle='square,pad=0.15', fc=colour, ec='none'),
        )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_title(title, fontsize=10)
    axes.axis('off')


def _load_scenes(
    data_dir: Path, predictions: Path, count: int, min_score: float
) -> List[Tuple[str, np.ndarray, List[_Object], List[_Object]]]:
    """File name, image, ground truth and predictions of the first scenes."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(data_dir / 'annotations' / 'instances_val.json'))
    names = {c['id']: c['name'] for c in coco.dataset['categories']}
    with predictions.open('rb') as file:
        found: Dict[int, Any] = {
            # tools/test.py wrote it a moment ago.
            p['img_id']: p['pred_instances']
            for p in pickle.load(file)  # nosec B301
        }
    scenes = []
    for image_id in sorted(found)[:count]:
        name = coco.imgs[image_id]['file_name']
        image = cv2.imread(str(data_dir / 'val' / name))[..., ::-1]
        truth = [
            _Object(
                label=int(names[a['category_id']]),
                text=names[a['category_id']],
                box=tuple(a['bbox']),
                mask=coco.annToMask(a).astype(bool),
            )
            for a in coco.imgToAnns[image_id]
        ]
        instances = found[image_id]
        guesses = [
            _Object(
                label=int(label),
                text=f'{int(label)}  {score:.2f}',
                box=(x1, y1, x2 - x1, y2 - y1),
                mask=coco_mask.decode(rle).astype(bool),
            )
            for label, score, (x1, y1, x2, y2), rle in zip(
                instances['labels'],
                instances['scores'].tolist(),
                instances['bboxes'].tolist(),
                instances['masks'],
            )
            if score >= min_score
        ]
        scenes.append((name, image, truth, guesses))
    return scenes


def draw_predictions(
    data_dir: Path,
    predictions: Path,
    out_dir: Path,
    count: int = 12,
    min_score: float = 0.5,
) -> List[Path]:
    """Draws validation scenes, the predictions beside the ground truth.

    Args:
        data_dir: Folder of the data set.
        predictions: What ``tools/test.py --out`` has written.
        out_dir: Folder for the PNG files, made if it is not there.
        count: Number of scenes. Defaults to 12.
        min_score: Least score of a prediction that is drawn. Defaults to 0.5.

    Returns:
        The files: ``overview.png`` with up to six scenes, then one for each scene.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    scenes = _load_scenes(data_dir, predictions, count, min_score)
    paths = [out_dir / 'overview.png']
    shown = scenes[:6]
    rows = -(-len(shown) // 2)
    figure, grid = plt.subplots(
        rows, 4, figsize=(13, 3.45 * rows), layout='constrained', dpi=110, squeeze=False
    )
    for axes in grid.flat[2 * len(shown) :]:
        axes.axis('off')
    for index, (_, image, truth, guesses) in enumerate(shown):
        pair = grid.flat[2 * index : 2 * index + 2]
        _draw_objects(pair[0], image, truth, 'ground truth')
        _draw_objects(pair[1], image, guesses, 'prediction')
    figure.savefig(paths[0])
    plt.close(figure)
    for name, image, truth, guesses in scenes:
        paths.append(out_dir / f'{Path(name).stem}.png')
        figure, pair = plt.subplots(
            1, 2, figsize=(9, 4.8), layout='constrained', dpi=110
        )
        _draw_objects(pair[0], image, truth, 'ground truth')
        _draw_objects(pair[1], image, guesses, 'prediction')
        figure.savefig(paths[-1])
        plt.close(figure)
    return paths
