# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Print the page that lists a prebuilt mmcv wheel, or print nothing.

``find_mmcv_wheel.py VERSION``, run by the Python that has torch. The page is the
one that ``mim install mmcv`` asks, for the installed torch and its CUDA;
``MMCV_BASE_URL`` names another site, as for mim. Where the site cannot be reached
the answer (none) comes within seconds.
"""

import os
import sys
import threading
import urllib.request
from typing import List

import torch

SITE = 'https://download.openmmlab.com'
SECONDS = 8


def find_page(version: str, found: List[str]) -> None:
    """Append the page's address to ``found`` if it lists a wheel that fits."""
    site = os.environ.get('MMCV_BASE_URL', SITE).rstrip('/')
    cuda = torch.version.cuda
    platform = 'cu' + cuda.replace('.', '') if cuda else 'cpu'
    major, minor = torch.__version__.split('.')[:2]
    page = f'{site}/mmcv/dist/{platform}/torch{major}.{minor}.0/index.html'
    tag = f'cp{sys.version_info.major}{sys.version_info.minor}'
    try:
        # The user's own MMCV_BASE_URL, of whatever scheme.
        with urllib.request.urlopen(page, timeout=SECONDS) as answer:  # nosec B310
            listing = answer.read().decode('utf-8', 'replace')
    except (OSError, ValueError):
        return
    if f'mmcv-{version}-{tag}-{tag}-' in listing:
        found.append(page)


if __name__ == '__main__':
    pages: List[str] = []
    # A name server that does not answer is not covered by urlopen's timeout.
    thread = threading.Thread(target=find_page, args=(sys.argv[1], pages), daemon=True)
    thread.start()
    thread.join(SECONDS)
    print(''.join(pages), flush=True)
    os._exit(0)
