# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Make a plain checkpoint of an 8-bit MobileNetV2 whose norms are folded in.

    python projects/frozen_units/make_mobilenet_v2.py mobilenet_v2_imagenet.npz OUT.pth

The archive has ``{i:02d}.weight`` (uint8), ``.scale``, ``.zero`` and ``.bias`` of the
convs in the order of the network. The checkpoint has mmpretrain's names, for a
classifier of 1001 classes, 0 the background.
"""

import sys
from typing import Dict, Mapping

import numpy as np
import torch
from mmpretrain.models import MobileNetV2
from torch import Tensor, nn


def plain_weights(arrays: Mapping[str, np.ndarray]) -> Dict[str, Tensor]:
    """The state dict of a classifier: ``backbone.`` and ``head.fc.``."""
    backbone = MobileNetV2()
    convs = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]

    def weight(i: int) -> Tensor:
        values = arrays[f'{i:02d}.weight'].astype(np.float32)
        zero, scale = arrays[f'{i:02d}.zero'], arrays[f'{i:02d}.scale']
        return torch.from_numpy((values - zero) * scale).float()

    for i, (conv, norm) in enumerate(zip(convs, norms)):
        conv.weight.data.copy_(weight(i).reshape(conv.weight.shape))
        norm.running_var.fill_(1 - norm.eps)
        norm.bias.data.copy_(torch.from_numpy(arrays[f'{i:02d}.bias']))
    last = len(convs)
    named = {f'backbone.{name}': v for name, v in backbone.state_dict().items()}
    named['head.fc.weight'] = weight(last).reshape(-1, 1280)
    named['head.fc.bias'] = torch.from_numpy(arrays[f'{last:02d}.bias'])
    return named


if __name__ == '__main__':
    with np.load(sys.argv[1]) as archive:
        torch.save(dict(state_dict=plain_weights(archive)), sys.argv[2])
