# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""CIFAR from folders of images, or from the published python files.

Needs mmpretrain; configs import this module by name (``custom_imports``).
"""

from typing import TYPE_CHECKING, Any, Dict, List, Tuple

import mmcv
from mmengine.fileio import get_local_path, isdir, join_path, list_dir_or_file
from mmengine.registry import DATASETS
from mmpretrain.datasets import CIFAR10, CIFAR100

__all__ = ['CIFAR10Folders', 'CIFAR100Folders']

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png')

# What the mixin is mixed into, for the type checker.
_Base: Any = CIFAR10 if TYPE_CHECKING else object


class _ClassFolders(_Base):
    """Reads ``data_root/SPLIT/CLASS/*.jpg`` where there is such a folder."""

    CLASSES: Tuple[str, ...]

    def load_data_list(self) -> List[Dict[str, Any]]:
        """Images (32, 32, 3), uint8, in RGB order, and labels.

        Raises:
            ValueError: If the folders are not those of the classes, or have no
                image.
        """
        folder = join_path(self.data_prefix['root'], self.split)
        if not isdir(folder):
            return super().load_data_list()
        found = set(list_dir_or_file(folder, list_file=False))
        missing = sorted(set(self.CLASSES) - found)
        extra = sorted(found - set(self.CLASSES))
        if missing or extra:
            raise ValueError(
                f'{folder} does not have one folder for each of the '
                f'{len(self.CLASSES)} classes: missing {missing[:5]}, not a class '
                f'{extra[:5]}'
            )
        data_list = []
        for label, name in enumerate(self.CLASSES):
            class_folder = join_path(folder, name)
            files = [
                file
                for file in sorted(list_dir_or_file(class_folder, list_dir=False))
                if file.lower().endswith(IMAGE_SUFFIXES)
            ]
            if not files:
                raise ValueError(f'{class_folder} has no {", ".join(IMAGE_SUFFIXES)}')
            for file in files:
                with get_local_path(join_path(class_folder, file)) as path:
                    img = mmcv.imread(path, channel_order='rgb')
                data_list.append(dict(img=img, gt_label=label))
        return data_list


@DATASETS.register_module()
class CIFAR10Folders(_ClassFolders, CIFAR10):
    """CIFAR-10 from class folders of images, or as mmpretrain's ``CIFAR10``.

    Args:
        **kwargs: Arguments of mmpretrain's ``CIFAR10``. ``data_root`` has either
            the folders ``train/CLASS`` and ``test/CLASS``, or
            ``cifar-10-batches-py``.
    """


@DATASETS.register_module()
class CIFAR100Folders(_ClassFolders, CIFAR100):
    """CIFAR-100 from class folders of images, or as mmpretrain's ``CIFAR100``.

    Args:
        **kwargs: Arguments of mmpretrain's ``CIFAR100``. ``data_root`` has either
            the folders ``train/CLASS`` and ``test/CLASS``, or
            ``cifar-100-python``.
    """
