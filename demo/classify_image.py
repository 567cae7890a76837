#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Classify images with a converted or trained checkpoint.

python demo/classify_image.py resnet50_rla_2283.pth.tar cat.jpg photos/ --out-dir out
"""

import argparse
from typing import List, Optional

from inputs import add_arguments, image_files, network_config, ready_checkpoint
from mmpretrain import ImageClassificationInferencer

from mmrla.engine.checkpoint_io import use_safe_loading
from mmrla.engine.errors import one_line_errors
from mmrla.models.fused import switch_to_deploy


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--out-dir', help='write the images with their classes here')
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Classify the images and print or draw the results."""
    args = parse_args(argv)
    files = image_files(args.images)
    checkpoint = ready_checkpoint(args.checkpoint)
    use_safe_loading()
    inferencer = ImageClassificationInferencer(
        network_config(checkpoint, args.config, 'classifier'),
        pretrained=checkpoint,
        device=args.device,
    )
    inferencer.model = switch_to_deploy(inferencer.model, only_rla=True)
    results = inferencer(files, batch_size=args.batch_size, show_dir=args.out_dir)
    for file, result in zip(files, results):
        label = result.get('pred_class', result['pred_label'])
        print(f'{file}: {label} ({result["pred_score"]:.3f})')


if __name__ == '__main__':
    main()
