# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The 18 checkpoints that the authors of RLA-Net publish, and their scores.

All belong to the released wiring (integration v3 for the ResNets).
"""

from dataclasses import dataclass
from typing import Optional, Tuple

#: What a score is called and how far a repeated evaluation may be from it: the
#: published figures are rounded, and JPEG decoders and resizing differ a little.
TOP1_ERROR = 'top-1 error (%)'
BOX_AP = 'box AP'
MASK_AP = 'mask AP'
TOLERANCE = {TOP1_ERROR: 0.1, BOX_AP: 0.1, MASK_AP: 0.1}


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        name: Name of the file, without its ending; of a detection file the
            detector and the backbone.
        arch: The released code's name of the network.
        detector: 'faster_rcnn', 'mask_rcnn' or 'retinanet'; None for a
            classification file.
        config: The config that takes the converted weights, below ``configs/``.
        scores: (name, value) of each score of the file.
        paper: The values in the paper's tables, where they are others.
    """

    name: str
    arch: str
    detector: Optional[str]
    config: str
    scores: Tuple[Tuple[str, float], ...]
    paper: Optional[Tuple[float, ...]] = None

    @property
    def task(self) -> str:
        """'cls' or 'det'."""
        return 'det' if self.detector else 'cls'

    def describe(self) -> str:
        """The scores in one line."""
        digits = 1 if self.detector else 2
        text = ', '.join(f'{name} {value:.{digits}f}' for name, value in self.scores)
        if self.paper:
            values = ', '.join(f'{value:.{digits}f}' for value in self.paper)
            text += f" (the paper's table: {values})"
        return text


def _classifier(
    name: str, arch: str, config: str, error: float, paper: Optional[float] = None
) -> Published:
    scores = ((TOP1_ERROR, error),)
    paper_scores = None if paper is None else (paper,)
    return Published(name, arch, None, config, scores, paper_scores)


# (name in the released files, name in our configs, released network).
_BACKBONES = (
    ('r50rla', 'rla-r50', 'rla_resnet50'),
    ('r50rlaeca', 'rla-eca-r50', 'rla_resnet50_eca'),
    ('r101rla', 'rla-r101', 'rla_resnet101'),
    ('r101rlaeca', 'rla-eca-r101', 'rla_resnet101_eca'),
)


def _detectors(detector: str, box: str, mask: str = '') -> Tuple[Published, ...]:
    columns = [(BOX_AP, box.split())] + ([(MASK_AP, mask.split())] if mask else [])
    stem = detector.replace('_', '-')
    return tuple(
        Published(
            f'{detector}_{name}',
            arch,
            detector,
            f'{detector}/{stem}_{config}-released_fpn_4xb2-1x_coco.py',
            tuple((metric, float(values[i])) for metric, values in columns),
        )
        for i, (name, config, arch) in enumerate(_BACKBONES)
    )


#: The mask AP of the Mask R-CNN files is that of the paper's Table 5.
PUBLISHED: Tuple[Published, ...] = (
    _classifier(
        'resnet50_rla_2283',
        'rla_resnet50',
        'rla_resnet/rla-resnet50-released_4xb64_in1k.py',
        22.83,
    ),
    _classifier(
        'ecanet50_rla_2215',
        'rla_resnet50_eca',
        'rla_resnet/rla-ecanet50-released_4xb64_in1k.py',
        22.15,
    ),
    _classifier(
        'resnet101_rla_2148',
        'rla_resnet101',
        'rla_resnet/rla-resnet101-released_4xb64_in1k.py',
        21.48,
    ),
    _classifier(
        'ecanet101_rla_2100',
        'rla_resnet101_eca',
        'rla_resnet/rla-ecanet101-released_4xb64_in1k.py',
        21.00,
        21.13,
    ),
    _classifier(
        'dsrla_mobilenetv2_k32_2762',
        'dsrla_mobilenetv2_k32',
        'rla_mobilenet_v2/rla-mobilenet-v2-released_2xb48_in1k.py',
        27.62,
        27.68,
    ),
    _classifier(
        'dsrla_mobilenetv2_k32_eca_2707',
        'dsrla_mobilenetv2_k32_eca',
        'rla_mobilenet_v2/rla-eca-mobilenet-v2-released_2xb48_in1k.py',
        27.07,
    ),
    *_detectors('faster_rcnn', '38.8 39.8 41.2 42.1'),
    *_detectors('retinanet', '37.9 39.0 40.3 41.5'),
    *_detectors('mask_rcnn', '39.5 40.6 41.8 42.9', '35.6 36.5 37.3 38.1'),
)


def find_published(arch: str, detector: Optional[str] = None) -> Optional[Published]:
    """The published file of a network, or None.

    Args:
        arch: The released code's name of the network.
        detector: The detector whose backbone it is; None for a classifier.
    """
    for entry in PUBLISHED:
        if (entry.arch, entry.detector) == (arch, detector):
            return entry
    return None
