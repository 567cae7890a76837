# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The stage driver: runs blocks and RLA unit, threads x and the hidden state."""

from typing import Optional, Sequence, Tuple

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .conv_norm import may_be_kept
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
        """What :meth:`end` reads, and the (projected) identity.

        Args:
            x: Main features (N, C, H, W).
            h: Hidden state (N, k, H, W) at the same resolution; None is zero.

        Returns:
            What the residual ends in, (N, C', H', W'), and the identity, (N,
            out_channels, H', W'), or None in a block without one.
        """
        raise NotImplementedError

    def end(
        self, y: Tensor, compress: Optional[nn.Module] = None
    ) -> Tuple[Tensor, Optional[Tensor], bool]:
        """What ends the residual branch, nothing by default, and C1 of it.

        Args:
            y: What :meth:`branch` returns.
            compress: C1, or None to leave it out.

        Returns:
            The residual y_t, C1(y_t), and whether autograd keeps y_t for C1.
        """
        if compress is None:
            return y, None, False
        return y, compress(y), may_be_kept()

    def forward(
        self,
        x: Tensor,
        h: Optional[Tensor] = None,
        compress: Optional[nn.Module] = None,
        keep_residual: bool = True,
    ) -> Tuple[Tensor, Optional[Tensor], Tensor, Optional[Tensor]]:
        """One block.

        Args:
            x: Main features (N, C, H, W).
            h: Hidden state (N, k, H, W) at the same resolution; None is zero.
            compress: C1, if it is to be computed of the residual here.
            keep_residual: Whether y_t is read afterwards. Where it is not, the
                addition overwrites it, as upstream's blocks do.

        Returns:
            Residual y_t, identity, output x_t = act(y_t + identity) and
            C1(y_t), None without ``compress``.
        """
        y, identity = self.branch(x, h)
        y, update, kept = self.end(y, compress)
        if identity is None:
            out = y
        elif kept or keep_residual:
            out = self.drop_path(y) + identity
        else:
            out = self.drop_path(y).add_(identity)
        return y, identity, self.act(out), update


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
        unit = self.rla
        if unit is None or t >= unit.num_updates:
            return self.blocks[t](x, h, keep_residual=False)[2], state
        # C1 of the residual is cheaper in the block, but hooks of the unit are
        # to see all that it reads.
        reads_residual = unit.integration.source == 'residual'
        early = reads_residual and not (unit._forward_hooks or unit._forward_pre_hooks)
        y, identity, x, update = self.blocks[t](
            x,
            h,
            compress=unit.compress_module(t) if early else None,
            keep_residual=reads_residual and not early,
        )
        state = unit(t, y, identity, x, state, update=update)
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
