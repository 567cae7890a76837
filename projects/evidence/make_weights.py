# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Make the checkpoints that the networks start from.

    python projects/evidence/make_weights.py FOLDER checkpoints

FOLDER has mobilenet_v2_imagenet.npz and cifar10_resnet20.th (README.md).
"""

import sys
from pathlib import Path
from typing import Dict, List, Mapping

import numpy as np
import torch
from mmengine.registry import MODELS
from mmpretrain.models import MobileNetV2
from torch import Tensor, nn

#: Where channels are added to the widths of a CIFAR ResNet. The identity of a later
#: stage shifts channels by 8 and by 16: so new ones meet new ones.
_NEW_AT = {16: 16, 32: 24, 64: 40}


def mobilenet_v2(arrays: Mapping[str, np.ndarray]) -> Dict[str, Tensor]:
    """A classifier's state dict, by mmpretrain's names: ``backbone.``, ``head.fc.``.

    Args:
        arrays: An 8-bit MobileNetV2 whose norms are folded in: ``{i:02d}.weight``
            (uint8), ``.scale``, ``.zero`` and ``.bias`` of the convs in the order of
            the network, and the classifier of 1001 classes, 0 the background.
    """
    backbone = MobileNetV2()
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]

    def weight(i: int) -> Tensor:
        values = arrays[f'{i:02d}.weight'].astype(np.float32)
        zero, scale = arrays[f'{i:02d}.zero'], arrays[f'{i:02d}.scale']
        return torch.from_numpy((values - zero) * scale).float()

    for i, (conv, norm) in enumerate(zip(convs, norms)):
        conv.weight.data.copy_(weight(i).reshape(conv.weight.shape))
        nn.init.constant_(norm.get_buffer('running_var'), 1 - norm.eps)
        norm.bias.data.copy_(torch.from_numpy(arrays[f'{i:02d}.bias']))
    last = len(convs)
    named = {f'backbone.{name}': v for name, v in backbone.state_dict().items()}
    named['head.fc.weight'] = weight(last).reshape(-1, 1280)
    named['head.fc.bias'] = torch.from_numpy(arrays[f'{last:02d}.bias'])
    return named


def with_eca(weights: Mapping[str, Tensor], plugins: List[dict]) -> Dict[str, Tensor]:
    """The weights with which ECA starts as the plain network.

    Its convs are zero, so that all scales are 1/2, behind norms that are doubled.

    Args:
        weights: Of the plain network, from :func:`mobilenet_v2`.
        plugins: The plugins of the network with ECA.
    """
    network = MODELS.build(
        dict(type='mmpretrain.RLAMobileNetV2', rla_channels=0, plugins=plugins)
    )
    plain = {name[len('backbone.') :]: value for name, value in weights.items()}
    network.load_state_dict(plain, strict=False)
    for layer in network.layers_of_blocks:
        for block in layer:
            nn.init.zeros_(block.eca.conv.weight)
            norm = block.conv[-1].norm
            norm.weight.data *= 2
            norm.bias.data *= 2
    return {f'backbone.{name}': v for name, v in network.state_dict().items()}


def widened(weights: Mapping[str, Tensor], extra: int) -> Dict[str, Tensor]:
    """A CIFAR ResNet with more channels, which computes what the narrow one does.

    New channels are drawn (He), but nothing old reads them yet.

    Args:
        weights: ``module.`` and the names of the narrow network.
        extra: Channels to add to each width.
    """
    torch.manual_seed(0)
    wide: Dict[str, Tensor] = {}
    for name, value in weights.items():
        shape, old = list(value.shape), []
        for i, size in enumerate(shape):
            at = _NEW_AT.get(size, size)
            more = extra if size in _NEW_AT else 0
            shape[i] += more
            old.append([*range(at), *range(at + more, size + more)])
        new = torch.zeros(shape, dtype=value.dtype)
        if value.ndim == 4:
            nn.init.kaiming_normal_(new, mode='fan_out')
            new[old[0]] = 0
        elif name.endswith(('weight', 'running_var')) and value.ndim == 1:
            new.fill_(1)
        new[np.ix_(*old)] = value
        wide[name] = new
    return wide


def main(source: Path, target: Path) -> None:
    """Write the four checkpoints."""
    from mmengine.config import Config

    target.mkdir(parents=True, exist_ok=True)
    with np.load(source / 'mobilenet_v2_imagenet.npz') as archive:
        plain = mobilenet_v2(archive)
    cfg = Config.fromfile(Path(__file__).with_name('configs') / 'retinanet_eca.py')
    eca = with_eca(plain, cfg.model.backbone.plugins)
    resnet20 = torch.load(
        source / 'cifar10_resnet20.th', map_location='cpu', weights_only=True
    )['state_dict']
    for name, weights in (
        ('mobilenet_v2', plain),
        ('mobilenet_v2_eca', eca),
        ('resnet20', resnet20),
        ('resnet20_wide', widened(resnet20, 8)),
    ):
        torch.save(dict(state_dict=weights), target / f'{name}.pth')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]))
