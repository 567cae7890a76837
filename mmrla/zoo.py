# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The configs of this package by name, from a clone or an installed package.

    >>> from mmrla import zoo
    >>> zoo.list_configs('faster-rcnn_rla-r50_*')
    ['faster-rcnn_rla-r50_fpn_4xb2-1x_coco']
    >>> path = zoo.config_path('faster-rcnn_rla-r50_fpn_4xb2-1x_coco')

``path`` is what ``mmdet.apis.init_detector`` and ``DetInferencer`` take.
mmpretrain finds classifiers by name, once they are registered:

    >>> zoo.register_models()
    >>> from mmpretrain import get_model
    >>> model = get_model('rla-resnet50_4xb64_in1k')
"""

import difflib
import fnmatch
import functools
from pathlib import Path
from typing import Any, Dict, List, Tuple

import yaml

__all__ = ['config_path', 'list_configs', 'register_models', 'root']


def root() -> Path:
    """The folder with ``configs``, ``tools`` and ``model-index.yml``.

    Raises:
        FileNotFoundError: If the package was installed without them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim', package.parent):
        if (folder / 'model-index.yml').is_file():
            return folder
    raise FileNotFoundError(
        f'{package / ".mim"} has no model-index.yml: the installation of mmrla is '
        'not complete, install it again'
    )


def _metafiles() -> List[Tuple[Path, Dict[str, Any]]]:
    top = root()
    index = yaml.safe_load((top / 'model-index.yml').read_text(encoding='utf-8'))
    paths = [top / name for name in index['Import']]
    return [(p, yaml.safe_load(p.read_text(encoding='utf-8'))) for p in paths]


@functools.cache
def _configs() -> Dict[str, str]:
    return {
        entry['Name']: entry['Config']
        for _, meta in _metafiles()
        for entry in meta['Models']
    }


def list_configs(pattern: str = '*') -> List[str]:
    """Names of configs, as their files are called.

    Args:
        pattern (str): A wildcard pattern that a name must match. Defaults to all.
    """
    return sorted(fnmatch.filter(_configs(), pattern))


def config_path(name: str) -> str:
    """The file of a config.

    Args:
        name (str): Its name, without folder and ending.

    Raises:
        ValueError: If there is no such config; the message has the nearest names.
    """
    configs = _configs()
    if name not in configs:
        near = difflib.get_close_matches(name, configs, n=3, cutoff=0.3)
        raise ValueError(
            f'name={name!r} is no config of mmrla, is one of {", ".join(near)} meant? '
            'mmrla.zoo.list_configs() has all'
        )
    return str(root() / configs[name])


_registered = False


def register_models() -> None:
    """Let mmpretrain find this package's classifiers by name.

    After this ``mmpretrain.list_models``, ``get_model`` and
    ``ImageClassificationInferencer`` know them. A second call does nothing.

    Raises:
        ImportError: If mmpretrain is not installed.
    """
    global _registered
    from mmpretrain.apis import ModelHub

    if _registered:
        return
    for path, meta in _metafiles():
        tasks = {r['Task'] for entry in meta['Models'] for r in entry['Results']}
        if tasks == {'Image Classification'}:
            ModelHub.register_model_index(path, config_prefix=root())
    _registered = True
