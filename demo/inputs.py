# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What the examples take: images and folders, a checkpoint, maybe a config."""

import argparse
from pathlib import Path
from typing import List, Optional

import cv2
import torch
from mmengine.config import Config

from mmrla.analysis.networks import is_detector, network_class
from mmrla.checkpoints.convert import convert_once
from mmrla.checkpoints.verify import carried_config
from mmrla.engine.checkpoint_io import load_foreign
from mmrla.engine.config import load_config
from mmrla.errors import UserError

__all__ = ['add_arguments', 'image_files', 'network_config', 'ready_checkpoint']

CHECKPOINT = 'checkpoint of mmrla, or a published file of RLANet as downloaded'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that all examples have."""
    parser.add_argument('checkpoint', help=CHECKPOINT)
    parser.add_argument('images', nargs='+', help='images, or folders of images')
    parser.add_argument('--config', help='config; by default the checkpoint carries it')
    parser.add_argument(
        '--device', default='cuda:0' if torch.cuda.is_available() else 'cpu'
    )


def image_files(paths: List[str]) -> List[str]:
    """The images among files and folders, in order.

    Raises:
        UserError: For a file that is not there or no image, or a folder without.
    """
    files: List[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [p for p in sorted(path.iterdir()) if p.suffix.lower() in SUFFIXES]
            if not found:
                raise UserError(f'{path}: has no images ({" ".join(SUFFIXES)})')
        elif path.is_file():
            found = [path]
        else:
            raise UserError(f'{path}: no such file or folder')
        files += map(str, found)
    for file in files:
        if cv2.imread(file) is None:
            raise UserError(f'{file}: cannot be read as an image')
    return files


def ready_checkpoint(path: str) -> str:
    """The checkpoint to load: a published file is converted beside itself, once."""
    checkpoint = convert_once(path)
    if checkpoint != Path(path).expanduser():
        print(f'{path}: a released file, converted to {checkpoint}')
    return str(checkpoint)


def network_config(
    checkpoint: str, config: Optional[str], task: Optional[str] = None
) -> Config:
    """The config of a checkpoint: the one named, else the one it carries.

    Args:
        checkpoint (str): The file.
        config (str, optional): The config that was named.
        task (str, optional): 'detector' or 'classifier', what the example runs.

    Raises:
        UserError: If there is none, or it is of the other task.
    """
    if config is not None:
        cfg = load_config(config)
    else:
        cfg = carried_config(load_foreign(checkpoint), checkpoint)
    found = 'detector' if is_detector(network_class(cfg)) else 'classifier'
    if task not in (None, found):
        tool = dict(classifier='classify_image.py', detector='detect_image.py')[found]
        raise UserError(f'{config or checkpoint} is of a {found}: take demo/{tool}')
    return cfg
