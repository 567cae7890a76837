#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw a data set's images with boxes, masks or classes, as a model gets them.

Takes mmdet and mmpretrain configs, and also what upstream's tools refuse: wrapped data
sets and the pipelines of semi-supervised training (one picture per branch).
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Optional

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS

from mmrla.analysis import plots
from mmrla.engine import checks, config, data, layout
from mmrla.engine.errors import config_errors, one_line_errors
from mmrla.errors import UserError
from mmrla.progress import Progress
from mmrla.registry import default_scope, type_name

#: Classified images with a shorter side are enlarged, so that text is readable.
_SMALL = 128


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--part', choices=('train', 'val', 'test'), default='train', help='(train)'
    )
    parser.add_argument('--output-dir', type=Path, help='folder for the pictures')
    parser.add_argument(
        '--show', action='store_true', help='show them in a window, one after another'
    )
    parser.add_argument(
        '--number',
        type=int,
        default=20,
        help='how many images, evenly spaced; 0 for all (20)',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds (2)')
    config.add_cfg_options(parser)
    args = parser.parse_args(argv)
    if not args.show and args.output_dir is None:
        parser.error('say where to: --output-dir FOLDER or --show')
    return args


def is_bgr(cfg: Config, part: str) -> bool:
    """Whether the images are BGR, as those loaded by a pipeline are."""
    for _, dataset in data.leaf_datasets(cfg[f'{part}_dataloader'].dataset, ''):
        kinds = [type_name(t) for t in dataset.get('pipeline') or ()]
        return any(kind.startswith('LoadImage') for kind in kinds)
    return True


def branches(item: Dict[str, Any]) -> Dict[str, Any]:
    """Inputs and data sample of an item by branch; '' if there is only one."""
    inputs, samples = item['inputs'], item['data_samples']
    if not isinstance(inputs, dict):
        return {'': (inputs, samples)}
    # None: the branch does not take this image.
    found = {name: (inputs[name], samples[name]) for name in inputs}
    return {name: pair for name, pair in found.items() if pair[0] is not None}


def draw(
    visualizer: Any, name: str, image: np.ndarray, sample: Any, **where: Any
) -> None:
    """Draw the ground truth of one image.

    Args:
        visualizer: mmdet's or mmpretrain's.
        name: The picture's name.
        image: RGB, (H, W, 3).
        sample: Its data sample.
        **where: ``show``, ``wait_time`` and ``out_file``.
    """
    if hasattr(sample, 'gt_instances'):
        boxes = sample.gt_instances.get('bboxes')
        if hasattr(boxes, 'tensor'):
            sample.gt_instances.bboxes = boxes.tensor
        visualizer.add_datasample(name, image, sample, draw_pred=False, **where)
        return
    factor = max(1.0, _SMALL / min(image.shape[:2]))
    visualizer.visualize_cls(image, sample, rescale_factor=factor, name=name, **where)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Draw the images."""
    args = parse_args(argv)
    cfg = config.load_config(args.config, args.cfg_options)
    checks.check_complete(cfg, [f'{args.part}_dataloader', 'visualizer'])
    dataset = layout.build_dataset(cfg, args.part)
    with config_errors(args.config), default_scope(cfg):
        # Write picture files instead of using the training's backends.
        visualizer = VISUALIZERS.build(
            dict(cfg.visualizer, name='browse', vis_backends=None)
        )
    visualizer.dataset_meta = plots.with_palette(dataset.metainfo)
    bgr = is_bgr(cfg, args.part)
    number = min(args.number or len(dataset), len(dataset))
    if not number:
        raise UserError(f'{args.config}: the data set of {args.part} has no image')
    width, drawn = len(str(len(dataset) - 1)), 0
    indices = np.linspace(0, len(dataset) - 1, number).astype(int)
    for index in Progress.over(indices, number, 'images'):
        item = dataset[int(index)]
        for branch, (inputs, sample) in branches(item).items():
            image = inputs.permute(1, 2, 0).numpy()
            image = np.ascontiguousarray(mmcv.bgr2rgb(image) if bgr else image)
            path = getattr(sample, 'img_path', None)
            parts = (f'{index:0{width}d}', Path(path).stem if path else '', branch)
            name = '_'.join(part for part in parts if part)
            out_file = args.output_dir and str(args.output_dir / f'{name}.jpg')
            where = dict(show=args.show, wait_time=args.wait_time, out_file=out_file)
            draw(visualizer, name, image, sample, **where)
            drawn += 1
    if args.output_dir:
        print(f'{drawn} pictures in {args.output_dir}')


if __name__ == '__main__':
    main()
