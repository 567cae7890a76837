# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Sphinx: the Markdown pages where they are, the API from docstrings.

    make docs

Pages are read in place, READMEs beside configs too, so that one link works on the site
and in the repository. sphinx-autoapi reads the sources without importing them, so torch
and mmcv are not needed.
"""

import re
import runpy
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parents[1]

project = 'mmrla'
author = 'mmrla contributors'
copyright = author
version = release = runpy.run_path(str(ROOT / 'mmrla/version.py'))['__version__']

extensions = ['myst_parser', 'autoapi.extension', 'sphinx.ext.napoleon']
root_doc = 'docs/index'
include_patterns = [
    'README.md',
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'docs/**.md',
    'docs/api/**.rst',
    'configs/**.md',
    'projects/**.md',
]
# The first ones are not walked through.
exclude_patterns = ['.*', 'work_dirs', 'data', 'mmrla', 'docs/_build']
html_theme = 'furo'
html_title = f'mmrla {release}'

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4

autoapi_dirs = ['mmrla']  # from the top, where the pages are
autoapi_ignore = ['*/.mim/*']
autoapi_root = 'docs/api'
autoapi_add_toctree_entry = False
autoapi_member_order = 'bysource'
autoapi_options = ['members', 'show-inheritance', 'show-module-summary']
autoapi_python_class_content = 'class'
# Bases in mmdet and mmpretrain are not there to be read.
suppress_warnings = ['autoapi.python_import_resolution']


def link_readmes(app: Any, name: str, text: List[str]) -> None:
    """A link to a folder is one to its README, as on a code host."""
    folder = (ROOT / name).parent

    def to_readme(match: 're.Match[str]') -> str:
        readme = f'{match[1]}/README.md'
        return f']({readme})' if (folder / readme).is_file() else match[0]

    text[0] = re.sub(r'\]\(([^():#]+)\)', to_readme, text[0])


def setup(app: Any) -> Dict[str, Any]:
    """Called by Sphinx."""
    app.connect('source-read', link_readmes)
    return dict(parallel_read_safe=True)
