#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw Grad-CAM of one picture in several networks, side by side.

    visualize_cam.py IMAGE PLAIN_CONFIG CHECKPOINT RLA_CONFIG CHECKPOINT --out STEM

Writes STEM.png, STEM.svg and STEM.csv. Explains the predicted class of a classifier, or
the objects found by a detector.
"""

import argparse
from pathlib import Path
from typing import List, Optional

import cv2
import numpy as np

from mmrla.analysis import plots
from mmrla.analysis.cam import explain, target_layers
from mmrla.analysis.images import prepare, read_image
from mmrla.analysis.networks import load_network
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('image', help='image file')
    parser.add_argument(
        'networks', nargs='+', metavar='CONFIG CHECKPOINT', help='one or more pairs'
    )
    parser.add_argument('--out', type=Path, required=True, metavar='STEM')
    parser.add_argument(
        '--category',
        type=int,
        metavar='N',
        help='class to explain, from 0 (a classifier: the predicted one; a detector: '
        'the objects of all classes)',
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        default=[],
        metavar='NAME',
        help='modules whose output is weighted, the same in all networks (the last '
        'norm of the backbone; of a detector that of each stage)',
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='least score of an object that a detector finds (0.3)',
    )
    args = parser.parse_args(argv)
    if len(args.networks) % 2:
        parser.error('give pairs: CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]')
    return args


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Draw the maps and save the figure."""
    args = parse_args(argv)
    image = read_image(args.image)
    pairs = list(zip(args.networks[::2], args.networks[1::2]))
    height, width = image.shape[:2]
    columns = len(pairs) + 1
    figure, axes = plots.add_figure(
        1, columns, (3.1 * columns, 3.1 * height / width + 0.6)
    )
    for ax in axes.flat:
        ax.axis('off')
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(Path(args.image).name, fontsize=9)
    rows = []
    stems = [Path(config).stem for config, _ in pairs]
    for ax, (config, checkpoint) in zip(axes[0, 1:], pairs):
        cfg, model = load_network(config, checkpoint)
        picture = prepare(cfg, model, image)
        cam, what = explain(model, picture, args.category, args.layers, args.score_thr)
        shown = picture.image
        # Without padding.
        cam = cam[: shown.shape[0], : shown.shape[1]]
        grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)
        ax.imshow(grey, cmap='gray', vmin=0, vmax=255)
        ax.imshow(cam, cmap=plots.CMAP, vmin=0, vmax=1, alpha=0.55)
        # Contour lines mark strong regions in grey prints.
        ax.contour(cam, levels=[0.5], colors='white', linewidths=1.5)
        name = Path(config).stem
        if stems.count(name) > 1:
            name = f'{Path(checkpoint).parent.name}/{Path(checkpoint).name}'
        ax.set_title(f'{name}\n{what}', fontsize=8)
        layers = ', '.join(layer for layer, _ in target_layers(model, args.layers))
        print(f'{name}: {what}, at {layers}')
        small = cv2.resize(cam, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
        rows += [
            (name, 8 * row, 8 * column, float(value))
            for (row, column), value in np.ndenumerate(small)
        ]
    head = ('network', 'row', 'column', 'mean_of_8x8')
    print('written:', *plots.save(figure, args.out, head, rows))


if __name__ == '__main__':
    main()
