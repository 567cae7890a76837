#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Save features of images: the backbone's stage outputs and the pooled vector.

python demo/extract_features.py rla-resnet50.pth cat.jpg photos/ --out-dir features

Writes NAME.npz for each image: stage0, stage1, ... (C, H, W); for a classifier also
hidden, the last hidden state (k, H, W), and vector, the input of its last layer.
"""

import argparse
from pathlib import Path
from typing import List, Optional

import numpy as np
import torch
from inputs import add_arguments, image_files, network_config, ready_checkpoint

from mmrla.analysis.images import prepare, read_image
from mmrla.checkpoints.verify import network_of
from mmrla.engine.checkpoint_io import load_foreign
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument('--out-dir', type=Path, required=True)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Save the features of each image."""
    args = parse_args(argv)
    files = image_files(args.images)
    checkpoint = ready_checkpoint(args.checkpoint)
    cfg = network_config(checkpoint, args.config)
    model = network_of(load_foreign(checkpoint), checkpoint, cfg)
    model.to(args.device)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for file in files:
        images = prepare(cfg, model, read_image(file)).inputs
        with torch.no_grad():
            outputs = model.backbone(images)
            features = {f'stage{i}': out[0] for i, out in enumerate(outputs)}
            if getattr(model.backbone, 'return_hidden', False):
                features['hidden'] = features.pop(f'stage{len(outputs) - 1}')
            if hasattr(model, 'head'):
                features['vector'] = model.neck(outputs)[-1][0]
        path = args.out_dir / f'{Path(file).stem}.npz'
        np.savez(
            path, **{name: value.cpu().numpy() for name, value in features.items()}
        )
        shapes = ', '.join(f'{n} {tuple(v.shape)}' for n, v in features.items())
        print(f'{path}: {shapes}')


if __name__ == '__main__':
    main()
