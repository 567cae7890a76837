#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Detect objects in a video, frame by frame, and write the video with them.

python demo/detect_video.py mask-rcnn_rla-r50.pth street.mp4 found.mp4
"""

import argparse
from typing import List, Optional

import cv2
import mmcv
import torch
from inputs import CHECKPOINT, network_config, ready_checkpoint
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import VISUALIZERS

from mmrla.analysis.plots import with_palette
from mmrla.engine.checkpoint_io import use_safe_loading
from mmrla.engine.errors import one_line_errors
from mmrla.errors import UserError
from mmrla.models.fused import switch_to_deploy
from mmrla.progress import Progress


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('video', help='video to read')
    parser.add_argument('out', help='video to write, .mp4')
    parser.add_argument('--config', help='config; by default the checkpoint carries it')
    parser.add_argument('--score-thr', type=float, default=0.3)
    parser.add_argument(
        '--device', default='cuda:0' if torch.cuda.is_available() else 'cpu'
    )
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Detect."""
    args = parse_args(argv)
    video = mmcv.VideoReader(args.video)
    if not video.opened or not len(video):
        raise UserError(f'{args.video}: cannot be read as a video')
    checkpoint = ready_checkpoint(args.checkpoint)
    use_safe_loading()
    config = network_config(checkpoint, args.config, 'detector')
    model = init_detector(config, checkpoint, device=args.device)
    model = switch_to_deploy(model, only_rla=True)
    visualizer = VISUALIZERS.build(model.cfg.visualizer)
    visualizer.dataset_meta = with_palette(model.dataset_meta)
    writer = cv2.VideoWriter(
        args.out, cv2.VideoWriter.fourcc(*'mp4v'), video.fps, video.resolution
    )
    if not writer.isOpened():
        raise UserError(f'{args.out}: cannot be written as an .mp4 video')
    for frame in Progress.over(video, len(video), 'frames'):
        result = inference_detector(model, frame)
        visualizer.add_datasample(
            'frame',
            mmcv.bgr2rgb(frame),
            data_sample=result,
            draw_gt=False,
            pred_score_thr=args.score_thr,
        )
        writer.write(mmcv.rgb2bgr(visualizer.get_image()))
    writer.release()
    print(f'written: {args.out}')


if __name__ == '__main__':
    main()
