# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The linear classifier of main features and hidden state."""

from typing import Any, Dict

import torch
from mmengine.registry import MODELS
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor

#: Names of the last layer, beside ``fc``, in files of torchvision, timm and the CIFAR
#: ResNets.
_PLAIN_NAMES = ('linear', 'classifier', 'classifier.1')


@MODELS.register_module()
class RLALinearClsHead(LinearClsHead):
    """mmpretrain's LinearClsHead for main features and hidden state.

    When it loads the weights of a plain classifier, it adds zeros for the hidden state,
    so the scores stay as they were. ``init_cfg`` may also name a file of torchvision,
    timm or the CIFAR ResNets, whose last layer is ``fc``, ``linear`` or ``classifier``.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels C of the main features.
        rla_channels (int): Channels k of the hidden state, as in
            :class:`mmrla.models.RLANeck`; 0 for the plain head. Defaults to 32.
        **kwargs: Arguments of mmpretrain's LinearClsHead.
    """

    def __init__(
        self, num_classes: int, in_channels: int, rla_channels: int = 32, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, in_channels + rla_channels, **kwargs)
        self.rla_channels = rla_channels

    def _load_from_state_dict(
        self, state_dict: Dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in _PLAIN_NAMES:
            for tensor in ('weight', 'bias'):
                value = state_dict.get(f'{prefix}{name}.{tensor}')
                if value is not None:
                    state_dict.setdefault(f'{prefix}fc.{tensor}', value)
        weight = state_dict.get(f'{prefix}fc.weight')
        if weight is not None and weight.ndim == 2:
            if weight.shape[1] + self.rla_channels == self.fc.in_features:
                zeros = weight.new_zeros(weight.shape[0], self.rla_channels)
                state_dict[f'{prefix}fc.weight'] = torch.cat((weight, zeros), dim=1)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
