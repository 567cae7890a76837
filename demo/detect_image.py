#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Detect (and, with Mask R-CNN, segment) objects in images.

python demo/detect_image.py faster_rcnn_r50rla_fpn_1x_coco_388.pth a.jpg photos/
"""

import argparse
from typing import List, Optional

from inputs import add_arguments, image_files, network_config, ready_checkpoint
from mmdet.apis import DetInferencer

from mmrla.analysis.plots import with_palette
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
    checkpoint = ready_checkpoint(args.checkpoint)
    use_safe_loading()
    inferencer = DetInferencer(
        network_config(checkpoint, args.config, 'detector'),
        weights=checkpoint,
        device=args.device,
        show_progress=False,
    )
    inferencer.model = switch_to_deploy(inferencer.model, only_rla=True)
    meta = inferencer.visualizer.dataset_meta = with_palette(
        inferencer.model.dataset_meta
    )
    # Batch by batch, so that lines come as images are done.
    for start in range(0, len(files), args.batch_size):
        batch = files[start : start + args.batch_size]
        results = inferencer(
            batch,
            batch_size=args.batch_size,
            pred_score_thr=args.score_thr,
            out_dir=args.out_dir,
            no_save_pred=not args.out_dir,
        )
        for file, result in zip(batch, results['predictions']):
            found = [
                f'{meta["classes"][label]} {score:.2f}'
                for label, score in zip(result['labels'], result['scores'])
                if score >= args.score_thr
            ]
            print(f'{file}: {", ".join(found) or "nothing found"}', flush=True)


if __name__ == '__main__':
    main()
