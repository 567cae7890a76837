# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tables of the released RLANet code: 18 published files and the named networks."""

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Optional, Tuple

from ..errors import UserError

#: Name of a score and tolerance of a repeated evaluation: published figures are
#: rounded, and JPEG decoders and resizing differ slightly.
TOP1_ERROR = 'top-1 error (%)'
BOX_AP = 'box AP'
MASK_AP = 'mask AP'
TOLERANCE = {TOP1_ERROR: 0.1, BOX_AP: 0.1, MASK_AP: 0.1}

#: Suffix of a name for the true residual, the paper's wiring: the released blocks add
#: the identity in place before C1 reads the residual.
RESIDUAL = '@residual'


class UnknownArchError(UserError):
    """A name that the released code does not have."""


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        name: Name of the downloaded file, without its ending.
        arch: The released code's name for the network or backbone.
        detector: 'faster_rcnn', 'mask_rcnn' or 'retinanet'; None for a
            classification file.
        config: The config that takes the converted weights, below ``configs/``.
        scores: (name, value) of each score of the file.
        drive: Its Google Drive id.
        baidu: Its Baidu id and access code.
        paper: The values in the paper's tables, where they differ.
    """

    name: str
    arch: str
    detector: Optional[str]
    config: str
    scores: Tuple[Tuple[str, float], ...]
    drive: str
    baidu: Tuple[str, str]
    paper: Optional[Tuple[float, ...]] = None

    @property
    def task(self) -> str:
        """'cls' or 'det'."""
        return 'det' if self.detector else 'cls'

    @property
    def link(self) -> str:
        """Where the file is."""
        return f'https://drive.google.com/file/d/{self.drive}/view'

    def describe(self) -> str:
        """The scores in one line."""
        digits = 1 if self.detector else 2
        text = ', '.join(f'{name} {value:.{digits}f}' for name, value in self.scores)
        if self.paper:
            values = ', '.join(f'{value:.{digits}f}' for value in self.paper)
            text += f" (the paper's table: {values})"
        return text


#: Mask APs of the Mask R-CNN files are those of the paper's Table 5.
PUBLISHED: Tuple[Published, ...] = (
    Published(
        'resnet50_rla_2283',
        'rla_resnet50',
        None,
        'rla_resnet/rla-resnet50-released_4xb64_in1k.py',
        ((TOP1_ERROR, 22.83),),
        '1cetP1SdOiwznLxlBUaHG8Q8c4RIwToWW',
        ('1GrNxNariVpb9S5EUFW1eng', '5lf1'),
        None,
    ),
    Published(
        'ecanet50_rla_2215',
        'rla_resnet50_eca',
        None,
        'rla_resnet/rla-ecanet50-released_4xb64_in1k.py',
        ((TOP1_ERROR, 22.15),),
        '173qoDPGe2q5l7CKVm54-_xJtg3_UFRR-',
        ('1B5wVN4s_WVVq8nGiiOVncA', 'xrfo'),
        None,
    ),
    Published(
        'resnet101_rla_2148',
        'rla_resnet101',
        None,
        'rla_resnet/rla-resnet101-released_4xb64_in1k.py',
        ((TOP1_ERROR, 21.48),),
        '1V9Iv0KbN1O92ll8rcf45kLkD9EOA9VCE',
        ('1sZQlAU4ksIjnOUg4iSSO-Q', 'zrv5'),
        None,
    ),
    Published(
        'ecanet101_rla_2100',
        'rla_resnet101_eca',
        None,
        'rla_resnet/rla-ecanet101-released_4xb64_in1k.py',
        ((TOP1_ERROR, 21.00),),
        '1QMR_yf0RYugpJosCSo0uNRBmfl2e7cGa',
        ('1ILfQ8pK1WdnAxSWb5X88PQ', 'vhpy'),
        (21.13,),
    ),
    Published(
        'dsrla_mobilenetv2_k32_2762',
        'dsrla_mobilenetv2_k32',
        None,
        'rla_mobilenet_v2/rla-mobilenet-v2-released_2xb48_in1k.py',
        ((TOP1_ERROR, 27.62),),
        '1yg9hsACBHZFT5R8s95igJTyaQ5iYKklV',
        ('135Id3juTsj0IAo0jSKooxw', 'g1pm'),
        (27.68,),
    ),
    Published(
        'dsrla_mobilenetv2_k32_eca_2707',
        'dsrla_mobilenetv2_k32_eca',
        None,
        'rla_mobilenet_v2/rla-eca-mobilenet-v2-released_2xb48_in1k.py',
        ((TOP1_ERROR, 27.07),),
        '1JdEkJg9_IOnJsHWKVPQ-4YHBVabiNJXD',
        ('1YVN5Qze51HI9D6nNEb7iPA', '9orl'),
        None,
    ),
    Published(
        'faster_rcnn_r50rla_fpn_1x_coco_388',
        'rla_resnet50',
        'faster_rcnn',
        'faster_rcnn/faster-rcnn_rla-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 38.8),),
        '16yqHnLT2ZZuLTcLDejyi7fsxPRuh36hN',
        ('1Kz39oBtwNporxM5mSGD8rw', 'q5c8'),
        None,
    ),
    Published(
        'faster_rcnn_r50rlaeca_fpn_1x_coco_398',
        'rla_resnet50_eca',
        'faster_rcnn',
        'faster_rcnn/faster-rcnn_rla-eca-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 39.8),),
        '1oLZtRCNr0x8c6xACS41znmWKsm2SnqEw',
        ('1UD-3nECcc0rYcQ6Fc86yDg', 'f5xs'),
        None,
    ),
    Published(
        'faster_rcnn_r101rla_fpn_1x_coco_412',
        'rla_resnet101',
        'faster_rcnn',
        'faster_rcnn/faster-rcnn_rla-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 41.2),),
        '15UqsMFKPSeBWnr-v7fy8Q2qidkj5_9Rj',
        ('13Ec2jUrs7z32Z4ovRA0j0g', '0ri3'),
        None,
    ),
    Published(
        'faster_rcnn_r101rlaeca_fpn_1x_coco_421',
        'rla_resnet101_eca',
        'faster_rcnn',
        'faster_rcnn/faster-rcnn_rla-eca-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 42.1),),
        '1OhiVpiwohQG436ruUyV683xzmdfYV9el',
        ('1ue02A9evqCbi7KFWeHyH1A', 'cpug'),
        None,
    ),
    Published(
        'retinanet_r50rla_fpn_1x_coco_379',
        'rla_resnet50',
        'retinanet',
        'retinanet/retinanet_rla-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 37.9),),
        '1sbKOUvSV0u1nj1WHSNVzSQTvB8PGIcwy',
        ('1u6aDamYPj4WRYzVAxTxgvA', 'lahj'),
        None,
    ),
    Published(
        'retinanet_r50rlaeca_fpn_1x_coco_390',
        'rla_resnet50_eca',
        'retinanet',
        'retinanet/retinanet_rla-eca-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 39.0),),
        '1okSs7HzBex9uB_AhKbF9qWq8rW8mEGrw',
        ('17VHcUDWvW9CxYnScym7i3g', 'adyd'),
        None,
    ),
    Published(
        'retinanet_r101rla_fpn_1x_coco_403',
        'rla_resnet101',
        'retinanet',
        'retinanet/retinanet_rla-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 40.3),),
        '1PWKq1AiOf1f9dm_k7zUin9fcsQfKx7U-',
        ('14-QdA1pl4e0iV4DYfvKrFw', 'p8y0'),
        None,
    ),
    Published(
        'retinanet_r101rlaeca_fpn_1x_coco_415',
        'rla_resnet101_eca',
        'retinanet',
        'retinanet/retinanet_rla-eca-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 41.5),),
        '1Hl7mhi-CAPnWR_m2reJug8hzhkokYQpa',
        ('1ArVb6TR1ifwGMx3RXL6ILw', 'hdqx'),
        None,
    ),
    Published(
        'mask_rcnn_r50rla_fpn_1x_coco_395',
        'rla_resnet50',
        'mask_rcnn',
        'mask_rcnn/mask-rcnn_rla-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 39.5), (MASK_AP, 35.6)),
        '1UrIzo9ZunyjwTRVm6qZmbJtfEJ2Fnqcp',
        ('1FF3RJDTcABt1GjvmqCEXmQ', 'j1x6'),
        None,
    ),
    Published(
        'mask_rcnn_r50rlaeca_fpn_1x_coco_406',
        'rla_resnet50_eca',
        'mask_rcnn',
        'mask_rcnn/mask-rcnn_rla-eca-r50-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 40.6), (MASK_AP, 36.5)),
        '1i6J0h_5FZDg8BxvGvS1VBbVxHIxmJk4L',
        ('1Ne4Rb33VN5_UyFxtyzxBQw', 'c08r'),
        None,
    ),
    Published(
        'mask_rcnn_r101rla_fpn_1x_coco_418',
        'rla_resnet101',
        'mask_rcnn',
        'mask_rcnn/mask-rcnn_rla-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 41.8), (MASK_AP, 37.3)),
        '1mGS2R5vx-u9KyQoK1WpyQwx-J7PI9lN2',
        ('1X_fLMF73vlBCb2GBurGCeQ', '8bsn'),
        None,
    ),
    Published(
        'mask_rcnn_r101rlaeca_fpn_1x_coco_429',
        'rla_resnet101_eca',
        'mask_rcnn',
        'mask_rcnn/mask-rcnn_rla-eca-r101-released_fpn_4xb2-1x_coco.py',
        ((BOX_AP, 42.9), (MASK_AP, 38.1)),
        '1RKkoE8E6n1CG2BDaNuYGLzrxWY9j7XB_',
        ('1zeLKIZPJGaM77nDNMnhrIA', '3kmz'),
        None,
    ),
)


@dataclass(frozen=True)
class Network:
    """A network of the released code as one of our configs.

    Attributes:
        arch: The released code's name, with ``@residual`` for the true residual.
        config: The config, below ``configs/``.
        options: Differences to the config, by dotted key.
    """

    arch: str
    config: str
    options: Dict[str, Any] = field(default_factory=dict)


_DEPTHS = (50, 101, 152)
#: Released name -> (ending of our config's name in configs/ablations, integration that
#: the released code computes, integration with the true residual).
_ABLATIONS = {
    'rlav2': ('v4', 'v4', 'v2'),
    'rlav3': ('v3', 'v3', 'v3'),
    'rlav4': ('v4', 'v4', 'v4'),
    'rlav5': ('v5', 'v5', 'v5'),
    'rlav6': ('v6', 'v6', 'v6'),
    'rlav1p': ('post-act', 'v3', 'v1'),
    'rlaus': ('unshared', 'v1', 'v1'),
    'rlarh': ('no-exchange', 'v3', 'v1'),
    'rlalstm': ('convlstm', 'v3', 'v1'),
}
_SE = [dict(cfg=dict(type='SELayer'), position='after_conv3')]
_ECA = [dict(cfg=dict(type='ECALayer'), position='after_conv3')]
_BACKBONE = 'model.backbone'


def _networks() -> Dict[str, Network]:
    found: Dict[str, Network] = {}

    def add(arch: str, config: str, residual: str = 'v1', **options: Any) -> None:
        options = {f'{_BACKBONE}.{key}': value for key, value in options.items()}
        true = {**options, f'{_BACKBONE}.integration': residual}
        found[arch] = Network(arch, config, options)
        found[arch + RESIDUAL] = Network(arch + RESIDUAL, config, true)

    for d in _DEPTHS:
        plain = f'rla_resnet/rla-resnet{d}-released_4xb64_in1k.py'
        add(f'rla_resnet{d}', plain)
        eca = f'rla_resnet/rla-ecanet{d}-released_4xb64_in1k.py'
        add(f'rla_resnet{d}_eca', eca)
        add(f'rla_resnet{d}_se', plain, plugins=_SE)
    for d in _DEPTHS[:2]:
        config = f'rla_resnet/rla-resnext{d}-32x4d_4xb64_in1k.py'
        add(f'rla_resnext{d}_32x4d', config, integration='v3')
        for ending, plugins in (('_eca', _ECA), ('_se', _SE)):
            name = f'rla_resnext{d}_32x4d{ending}'
            add(name, config, integration='v3', plugins=plugins)
    for prefix, (ending, released, residual) in _ABLATIONS.items():
        config = f'ablations/rla-resnet50-{ending}_4xb64_in1k.py'
        for d in _DEPTHS[:2]:
            name = f'{prefix}_resnet{d}'
            if d == 50:
                add(name, config, residual, integration=released)
            else:
                add(name, config, residual, integration=released, depth=d)
    for d in _DEPTHS[:2]:
        # The last state passes tanh instead of ReLU.
        arch, plain = f'rlav1_resnet{d}', f'rla_resnet{d}'
        for ending in ('', RESIDUAL):
            base = found[plain + ending]
            tanh = {**base.options, 'model.neck.act_cfg': dict(type='Tanh')}
            found[arch + ending] = Network(arch + ending, base.config, tanh)
    channels = Network('resnet50_k', 'ablations/rla-resnet50-channels32_4xb64_in1k.py')
    found[channels.arch] = channels
    return found


NETWORKS: Dict[str, Network] = _networks()

NAMES = (
    f'{", ".join(n for n in NETWORKS if not n.endswith(RESIDUAL))}, '
    'dsrla_mobilenetv2_kN, rla_mobilenetv2_kN (also with _eca) for N channels of the '
    f'hidden state; the ResNets with {RESIDUAL} for the true residual'
)


def find_network(name: str) -> Network:
    """The network of a released name or of a published classification file.

    Args:
        name: The name.

    Raises:
        UnknownArchError: If there is none.
    """
    name = {p.name: p.arch for p in PUBLISHED if p.task == 'cls'}.get(name, name)
    if name in NETWORKS:
        return NETWORKS[name]
    match = re.fullmatch(r'(ds)?rla_mobilenetv2_k(\d+)(_eca)?', name)
    if match:
        eca = 'eca-' if match[3] else ''
        config = f'rla_mobilenet_v2/rla-{eca}mobilenet-v2-released_2xb48_in1k.py'
        options: Dict[str, Any] = {f'{_BACKBONE}.rla_channels': int(match[2])}
        if not match[1]:
            options[f'{_BACKBONE}.recurrent_conv'] = 'full'
        return Network(name, config, options)
    raise UnknownArchError(f'{name!r} names no released network; there are {NAMES}')


def find_published(arch: str, detector: Optional[str] = None) -> Optional[Published]:
    """The published file of a network, or None.

    Args:
        arch: The released code's name of the network.
        detector: The detector with this backbone; None for a classifier.
    """
    for entry in PUBLISHED:
        if (entry.arch, entry.detector) == (arch, detector):
            return entry
    return None
