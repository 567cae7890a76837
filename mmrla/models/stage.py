# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The stage driver: runs blocks and RLA unit, threads x and the hidden state."""

from typing import Optional, Sequence, Tuple

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .rla import RLAUnit, State


class RLABlock(BaseModule):
    """What a network family's block must offer to the stage driver.

    A subclass builds its residual branch and implements :meth:`branch`; the
    addition, the activation and the hidden state are the driver's.

    Args:
        out_channels (int): Channels of the block's output.
        act (nn.Module, optional): Activation after the addition, if any.
        drop_path_rate (float): Probability of dropping the residual branch
            from the addition (stochastic depth). Defaults to 0.
    """

    def __init__(
        self,
        out_channels: int,
        act: Optional[nn.Module] = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.act = act or nn.Identity()
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    @property
    def last_norm(self) -> Optional[nn.Module]:
        """The norm that ends the residual branch, to start at zero, if any."""
        return None

    @property
    def reading_conv(self) -> nn.Module:
        """The first conv that mixes x and h; its last input channels are h's."""
        raise NotImplementedError

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual y and the (projected) identity, (N, out_channels, H', W').

        Args:
            x: Main features (N, C, H, W).
            h: Hidden state (N, k, H, W) at the same resolution; None is zero.

        Returns:
            y and the identity; the identity is None in a block without one.
        """
        raise NotImplementedError

    def forward(
        self, x: Tensor, h: Optional[Tensor] = None
    ) -> Tuple[Tensor, Optional[Tensor], Tensor]:
        """Residual y_t, identity and output x_t = act(y_t + identity)."""
        y, identity = self.branch(x, h)
        out = y if identity is None else self.drop_path(y) + identity
        return y, identity, self.act(out)


class RLAStage(BaseModule):
    """A stage: blocks of one resolution and the RLA unit that they share.

    Args:
        blocks: The stage's blocks.
        rla (RLAUnit, optional): The unit; without one the hidden state passes
            unchanged (None: the plain network).
        exchange (bool): Whether blocks read the hidden state; False is
            ablation (c). Defaults to True.
        with_cp (bool): Recompute each block and its update in the backward
            pass instead of storing activations. Defaults to False.
    """

    def __init__(
        self,
        blocks: Sequence[RLABlock],
        rla: Optional[RLAUnit] = None,
        exchange: bool = True,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        # The unit comes first: Grad-CAM tools take a backbone's last norm.
        self.rla = rla
        self.blocks = ModuleList(blocks)
        self.exchange = exchange
        self.with_cp = with_cp

    def step(self, t: int, x: Tensor, state: State) -> Tuple[Tensor, State]:
        """x and the state after block t (from 0)."""
        h = state[0] if state is not None and self.exchange else None
        y, identity, x = self.blocks[t](x, h)
        if self.rla is not None and t < self.rla.num_updates:
            state = self.rla(t, y, identity, x, state)
        return x, state

    def forward(self, x: Tensor, state: State = None) -> Tuple[Tensor, State]:
        """Run the stage.

        Args:
            x: Main features (N, C, H, W).
            state: The state that the previous stage left, at the resolution
                of x; None is zero.

        Returns:
            Main features (N, C', H', W') and the state after the last update
            computed.
        """
        for t in range(len(self.blocks)):
            if self.with_cp and torch.is_grad_enabled():
                x, state = checkpoint(self.step, t, x, state, use_reentrant=False)
            else:
                x, state = self.step(t, x, state)
        return x, state
