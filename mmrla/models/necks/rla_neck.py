# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The neck of a classifier: joins main features and hidden state, and pools them."""

from typing import Optional, Sequence, Tuple

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..wiring import WiringRecord


class HiddenStateOutput(WiringRecord):
    """Norm and activation of the last hidden state.

    Args:
        rla_channels (int): Channels k of the hidden state.
        norm_cfg (dict, optional): Config of the norm; None for none.
        act_cfg (dict, optional): Config of the activation; None for none.
    """

    def __init__(
        self,
        rla_channels: int,
        norm_cfg: Optional[dict],
        act_cfg: Optional[dict],
    ) -> None:
        act_type = act_cfg['type'] if act_cfg else None
        super().__init__(
            f'act={act_type!r}', "build the neck with act_cfg's type as in {found}"
        )
        self.norm = (
            build_norm_layer(norm_cfg, rla_channels)[1] if norm_cfg else nn.Identity()
        )
        self.act = build_activation_layer(act_cfg) if act_cfg else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        """act(norm(h)), (N, k, H, W)."""
        return self.act(self.norm(h))


@MODELS.register_module()
class RLANeck(BaseModule):
    """Global average pooling of concat(x, act(norm(h))) (Sections 3.3 and 4).

    For an RLA backbone with ``return_hidden=True``.

    Args:
        rla_channels (int): Channels k of the hidden state; 0 for a backbone without
            one. Defaults to 32.
        norm_cfg (dict, optional): Config of the norm of h; None for none. Defaults to
            BN.
        act_cfg (dict, optional): Config of the activation of h; None for none. In
            ablations (d) and (e) and with ConvGRU both are None. Defaults to ReLU.
        init_cfg (dict, optional): As in BaseModule. Defaults to None.
    """

    def __init__(
        self,
        rla_channels: int = 32,
        norm_cfg: Optional[dict] = dict(type='BN'),
        act_cfg: Optional[dict] = dict(type='ReLU'),
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.hidden = (
            HiddenStateOutput(rla_channels, norm_cfg, act_cfg) if rla_channels else None
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor]:
        """Pool and concatenate.

        Args:
            inputs: Outputs of the backbone. The last two are x, (N, C, H, W), and h,
                (N, k, H, W); with ``rla_channels=0`` the last one is x.

        Returns:
            A tuple of one tensor, (N, C + k).
        """
        if self.hidden is None:
            return (inputs[-1].mean((2, 3)),)
        x, h = inputs[-2], self.hidden(inputs[-1])
        # Pooled first, to concatenate vectors instead of maps.
        return (torch.cat((x.mean((2, 3)), h.mean((2, 3))), dim=1),)
