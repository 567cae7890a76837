# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The detectors of the published files: names and shapes of neck and heads.

They are those of MMDetection 3.x, for the configs ``mmdet::_base_/models/``
``faster-rcnn_r50_fpn.py``, ``mask-rcnn_r50_fpn.py`` and ``retinanet_r50_fpn.py``.
They are written down here because importing mmdet costs a converter more time and
memory than everything else; a test compares them with mmdet's own.
"""

from typing import Dict, Iterable, Mapping, Optional, Sequence, Tuple

from .arch import Shape
from .files import CheckpointError

#: Detector -> mmdet's base config of the model, of the data set.
BASES: Dict[str, Tuple[str, str]] = {
    'faster_rcnn': ('faster-rcnn_r50_fpn', 'coco_detection'),
    'mask_rcnn': ('mask-rcnn_r50_fpn', 'coco_instance'),
    'retinanet': ('retinanet_r50_fpn', 'coco_detection'),
}
#: First parts of the names of a detector's neck and heads.
PARTS = ('neck.', 'rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')


def is_part(name: str) -> bool:
    """Whether a weight belongs to a detector's neck or heads."""
    return name.startswith(PARTS)


def recognise_detector(shapes: Mapping[str, Shape]) -> Tuple[str, int]:
    """The detector that weights belong to, and its number of classes.

    Args:
        shapes: Names and shapes of the weights.

    Raises:
        CheckpointError: If it is none of the published detectors.
    """
    if 'bbox_head.retina_cls.weight' in shapes:
        return 'retinanet', shapes['bbox_head.retina_cls.weight'][0] // 9
    if 'roi_head.bbox_head.fc_cls.weight' in shapes:
        masks = any(name.startswith('roi_head.mask_head.') for name in shapes)
        classes = shapes['roi_head.bbox_head.fc_cls.weight'][0] - 1
        return ('mask_rcnn' if masks else 'faster_rcnn'), classes
    heads = sorted({name.split('.')[0] for name in shapes if is_part(name)})
    raise CheckpointError(
        f'the heads ({", ".join(heads)}) are none of {", ".join(BASES)}; convert the '
        'backbone alone from its classification file'
    )


def head_shapes(
    detector: str, num_classes: int, channels: Sequence[int]
) -> Dict[str, Shape]:
    """Names and shapes of a detector's neck and heads.

    Args:
        detector: One of :data:`BASES`.
        num_classes: Number of classes without background.
        channels: Channels of the four backbone outputs.
    """
    shapes: Dict[str, Shape] = {}

    def add(name: str, *weight: int, bias: Optional[int] = None) -> None:
        shapes[f'{name}.weight'] = weight
        shapes[f'{name}.bias'] = (weight[0] if bias is None else bias,)

    def add_convs(names: Iterable[str]) -> None:
        for name in names:
            add(name, 256, 256, 3, 3)

    # RetinaNet's pyramid starts at the second output and adds two levels.
    first = 1 if detector == 'retinanet' else 0
    for i, width in enumerate(channels[first:]):
        add(f'neck.lateral_convs.{i}.conv', 256, width, 1, 1)
        add(f'neck.fpn_convs.{i}.conv', 256, 256, 3, 3)
    if detector == 'retinanet':
        add('neck.fpn_convs.3.conv', 256, channels[-1], 3, 3)
        add('neck.fpn_convs.4.conv', 256, 256, 3, 3)
        for branch in ('cls_convs', 'reg_convs'):
            add_convs(f'bbox_head.{branch}.{i}.conv' for i in range(4))
        add('bbox_head.retina_cls', 9 * num_classes, 256, 3, 3)
        add('bbox_head.retina_reg', 9 * 4, 256, 3, 3)
        return shapes
    add('rpn_head.rpn_conv', 256, 256, 3, 3)
    add('rpn_head.rpn_cls', 3, 256, 1, 1)
    add('rpn_head.rpn_reg', 3 * 4, 256, 1, 1)
    add('roi_head.bbox_head.shared_fcs.0', 1024, 256 * 7 * 7)
    add('roi_head.bbox_head.shared_fcs.1', 1024, 1024)
    add('roi_head.bbox_head.fc_cls', num_classes + 1, 1024)
    add('roi_head.bbox_head.fc_reg', 4 * num_classes, 1024)
    if detector == 'mask_rcnn':
        add_convs(f'roi_head.mask_head.convs.{i}.conv' for i in range(4))
        add('roi_head.mask_head.upsample', 256, 256, 2, 2)
        add('roi_head.mask_head.conv_logits', num_classes, 256, 1, 1)
    return shapes
