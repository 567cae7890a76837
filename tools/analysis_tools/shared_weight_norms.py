#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Figure 2: norms of the shared 1x1 convs of DenseNet-BC against lag or ordinal.

One panel per network, one line per stage, with the best exponential fit and its R^2.
Writes STEM.png, STEM.svg and STEM.csv.
"""

import argparse
from pathlib import Path
from typing import Dict, List, Optional

import numpy as np

from mmrla.analysis import plots, weight_norms
from mmrla.analysis.networks import load_network
from mmrla.engine.config import add_cfg_options
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'networks', nargs='+', metavar='CONFIG CHECKPOINT', help='one or more pairs'
    )
    parser.add_argument('--out', type=Path, required=True, metavar='STEM')
    parser.add_argument(
        '--norm', type=float, default=1.0, metavar='P', help='order of the norm (1)'
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if len(args.networks) % 2:
        parser.error('give pairs: CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]')
    if args.norm <= 0:
        parser.error(f'--norm {args.norm:g} is not positive')
    return args


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Draw the norms, save the figure and print the fits."""
    args = parse_args(argv)
    curves: Dict[str, List[np.ndarray]] = {}
    axis: Dict[str, str] = {}
    for config, checkpoint in zip(args.networks[::2], args.networks[1::2]):
        _, model = load_network(config, checkpoint, args.cfg_options)
        stages = weight_norms.shared_norms(model, args.norm)
        sharing = model.backbone.sharing
        name = f'Shared-{sharing.capitalize()}'
        if name in curves:
            name = f'{name}, {Path(checkpoint).parent.name}/{Path(checkpoint).name}'
        curves[name], axis[name] = stages, sharing
    rows = weight_norms.table(curves)
    figure = weight_norms.draw(curves, axis, args.norm)
    files = plots.save(figure, args.out, weight_norms.HEAD, rows)
    for name, stages in curves.items():
        for stage, norms in enumerate(stages, 1):
            fit = weight_norms.fit_exponential(range(1, len(norms) + 1), norms)
            found = 'too few for a fit'
            if fit is not None:
                found = f'R^2 {fit.r_squared:.3f}, rate {fit.rate:.3f}'
            print(
                f'{name}, stage {stage}: {norms[0]:.2f} at 1, {norms[-1]:.2f} at '
                f'{len(norms)}; {found}'
            )
    print('written:', *files)


if __name__ == '__main__':
    main()
