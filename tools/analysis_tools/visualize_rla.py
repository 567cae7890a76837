#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Draw what a network writes to, keeps in and reads from its hidden state.

For one picture, each as PNG, SVG and CSV:

    state     h after each block, stage by stage (maps)
    norms     what each block writes, C1 y, and the state after it
    lags      how much of what a block wrote is left so many blocks later: by the
              powers of C3 (Eq. 12), and with BN and tanh at this picture
    reading   the share of h in the conv of each block that reads it
"""

import argparse
from pathlib import Path
from typing import List, Optional

from mmrla.analysis import hidden_state, plots
from mmrla.analysis.images import prepare, read_image
from mmrla.analysis.networks import load_network
from mmrla.engine.config import add_cfg_options
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image file')
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='folder for the figures (default: work_dirs/visualize_rla/NAME_OF_CONFIG)',
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if args.out_dir is None:
        args.out_dir = Path('work_dirs/visualize_rla') / Path(args.config).stem
    return args


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Record a forward pass and save its figures."""
    args = parse_args(argv)
    image = read_image(args.image)
    cfg, model = load_network(args.config, args.checkpoint, args.cfg_options)
    picture = prepare(cfg, model, image)
    stages = hidden_state.record(model, picture.inputs)
    lags = hidden_state.lag_table(stages)
    figures = {
        'state': (
            hidden_state.draw_maps(stages, picture.image),
            hidden_state.map_table(stages),
        ),
        'norms': (hidden_state.draw_norms(stages), hidden_state.norm_table(stages)),
        'lags': (hidden_state.draw_lags(lags[1]), lags),
    }
    if any(stage.readings for stage in stages):
        reading = hidden_state.reading_table(stages)
        figures['reading'] = (hidden_state.draw_reading(stages), reading)
    else:
        print('the blocks read no hidden state (exchange=False): no figure of it')
    for name, (figure, (head, rows)) in figures.items():
        print(*plots.save(figure, args.out_dir / name, head, rows))


if __name__ == '__main__':
    main()
