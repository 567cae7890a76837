#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Print a config with everything it inherits."""

import argparse
from typing import List, Optional

from mmrla.engine import config
from mmrla.engine.errors import one_line_errors


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    config.add_cfg_options(parser)
    return parser.parse_args(argv)


@one_line_errors
def main(argv: Optional[List[str]] = None) -> None:
    """Print the config."""
    args = parse_args(argv)
    print(config.load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    main()
