# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Joins main features and the last hidden state, and pools them."""

from typing import Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule, build_activation_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...checkpoints.wiring import WiringRecord


class HiddenStateOutput(WiringRecord):
    """act(norm(h)) of the last hidden state.

    Args:
        rla_channels (int): Channels k of the hidden state.
        norm_cfg (dict, optional): Config of the norm, None for none.
        act_cfg (dict, optional): Config of the activation, None for none.
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
        """(N, k, H, W) to the same shape."""
        return self.act(self.norm(h))


@MODELS.register_module()
class RLANeck(BaseModule):
    """Concatenates x and act(norm(h)), then pools globally (Section 3.3, 4).

    Takes what an RLA backbone with ``return_hidden=True`` returns.

    Args:
        rla_channels (int): Channels k of the hidden state; 0 for a backbone
            without one.
        in_channels (int, optional): Channels C of x; needed with
            ``out_channels`` only.
        out_channels (int, optional): Channels of a 1x1 conv, norm and
            activation between concatenation and pooling (MobileNetV2: 1280).
            Defaults to None: no conv.
        norm_cfg (dict, optional): Config of the norm of h. None (with
            ``act_cfg=None``) for the cells whose last state is used as it is.
            Defaults to BN.
        act_cfg (dict, optional): Config of the activation of h. Defaults to
            ReLU.

    Raises:
        ValueError: If ``out_channels`` is given without ``in_channels``.
    """

    def __init__(
        self,
        rla_channels: int,
        in_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        norm_cfg: Optional[dict] = dict(type='BN'),
        act_cfg: Optional[dict] = dict(type='ReLU'),
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg)
        self.hidden = (
            HiddenStateOutput(rla_channels, norm_cfg, act_cfg) if rla_channels else None
        )
        self.conv: Optional[ConvModule] = None
        if out_channels is not None:
            if in_channels is None:
                raise ValueError(
                    f'out_channels={out_channels} needs in_channels, the channels '
                    'of the main features'
                )
            self.conv = ConvModule(
                in_channels + rla_channels,
                out_channels,
                1,
                norm_cfg=norm_cfg or dict(type='BN'),
                act_cfg=act_cfg or dict(type='ReLU'),
            )

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor]:
        """Pooled features.

        Args:
            inputs: Outputs of a backbone; the last two are x, (N, C, H, W),
                and h, (N, k, H, W); without a hidden state the last is x.

        Returns:
            One tensor (N, C + k), or (N, out_channels), in a tuple.
        """
        if self.hidden is None:
            x = inputs[-1]
        else:
            x, h = inputs[-2], self.hidden(inputs[-1])
        if self.conv is not None:
            if self.hidden is not None:
                x = torch.cat((x, h), dim=1)
            return (self.conv(x).mean((2, 3)),)
        if self.hidden is None:
            return (x.mean((2, 3)),)
        # Pooling first concatenates vectors instead of maps.
        return (torch.cat((x.mean((2, 3)), h.mean((2, 3))), dim=1),)
