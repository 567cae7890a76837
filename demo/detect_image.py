#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Detect (and, with Mask R-CNN, segment) objects in images.

python demo/detect_image.py mask-rcnn_rla-r50.pth street.jpg photos/ --out-dir found
"""

import argparse
from typing import List, Optional

from inputs import add_arguments, image_files, network_config
from mmdet.apis import DetInferencer

from mmrla.engine.checkpoint_io import use_safe_loading
from mmrla.engine.errors import one_line_errors
from mmrla.models.fused import switch_to_deploy


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The options of the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument(
        '--out-dir',
        default='',
        help='write pictures (vis/) and predictions (preds/) to this folder',
    )
    parser.add_argument('--score-thr', type=float, default=0.3)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Detect."""
    args = parse_args(argv)
    files = image_files(args.images)
    use_safe_loading()
    inferencer = DetInferencer(
        network_config(args.checkpoint, args.config),
        weights=args.checkpoint,
        device=args.device,
        show_progress=False,
    )
    inferencer.model = switch_to_deploy(inferencer.model, only_rla=True)
    results = inferencer(
        files,
        batch_size=args.batch_size,
        pred_score_thr=args.score_thr,
        out_dir=args.out_dir,
        no_save_pred=not args.out_dir,
    )
    classes = inferencer.model.dataset_meta['classes']
    for file, result in zip(files, results['predictions']):
        found = [
            f'{classes[label]} {score:.2f}'
            for label, score in zip(result['labels'], result['scores'])
            if score >= args.score_thr
        ]
        print(f'{file}: {", ".join(found) or "nothing found"}')


if __name__ == '__main__':
    main()
