# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What the plain networks share that upstream does not have: outputs and modes."""

from typing import List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import check_range
from ..rla import INIT_CFG


class PlainBackbone(BaseModule):
    """Base of the plain networks for images of 32x32.

    A family builds its stem and calls :meth:`add_layer` for each stage. Its blocks
    have ``branch(x, read=None)``, ``join(y, identity)``, ``make_read(channels,
    norm_cfg)`` and ``out_channels``, as :class:`mmrla.models.RLA` needs them.

    Args:
        num_stages (int): Stages of the family.
        out_indices: Stages (from 0) whose outputs are returned. Stages after the
            last of them are not built.
        frozen_stages (int): Stages whose parameters and norms are fixed: -1
            none, 0 the stem, n the stem and n stages. Defaults to -1.
        norm_eval (bool): Whether batch norms stay in eval mode.
        norm_cfg (dict): Config of norm layers. Defaults to BN.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
        init_cfg: Initialisation; He normal, fan-out, by default.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.
    """

    def __init__(
        self,
        num_stages: int,
        out_indices: Sequence[int],
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        init_cfg: Union[None, dict, List[dict]] = None,
    ) -> None:
        super().__init__(INIT_CFG if init_cfg is None else init_cfg)
        if not out_indices or list(out_indices) != sorted(set(out_indices)):
            raise ValueError(
                f'out_indices={tuple(out_indices)!r} must be increasing stage '
                f'indices from 0 to {num_stages - 1}'
            )
        for index in out_indices:
            check_range('out_indices entry', index, 0, num_stages - 1)
        check_range('frozen_stages', frozen_stages, -1, num_stages)
        self.out_indices = tuple(out_indices)
        self.num_stages = self.out_indices[-1] + 1
        self.frozen_stages = min(frozen_stages, self.num_stages)
        self.norm_eval = norm_eval
        self.norm_cfg = dict(norm_cfg)
        self.with_cp = with_cp
        self.res_layers: List[str] = []

    def add_layer(self, blocks: Sequence[nn.Module]) -> None:
        """Append a stage of blocks."""
        name = f'layer{len(self.res_layers) + 1}'
        self.add_module(name, nn.Sequential(*blocks))
        self.res_layers.append(name)

    def stem_modules(self) -> List[nn.Module]:
        """The modules before the first stage, for freezing."""
        raise NotImplementedError

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to the first stage's input."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """What ends the network, behind the last stage."""
        return x

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) to the outputs at ``out_indices``."""
        x = self.forward_stem(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i + 1 == len(self.res_layers):
                x = self.finish(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        layers = [getattr(self, name) for name in self.res_layers]
        for module in [*self.stem_modules(), *layers[: self.frozen_stages]]:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'PlainBackbone':
        """Set the mode; frozen stages and, with ``norm_eval``, norms stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class PlainBlock(BaseModule):
    """A residual block that can be taken apart.

    Args:
        with_cp (bool): Recompute it in the backward pass to save memory.
    """

    def __init__(self, with_cp: bool = False) -> None:
        super().__init__()
        self.with_cp = with_cp

    def branch(
        self, x: Tensor, read: Optional[Tensor] = None
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Residual and identity, see :meth:`mmrla.models.RLA.branch`."""
        raise NotImplementedError

    def join(self, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The block's output of both."""
        return y if identity is None else y + identity

    def _forward(self, x: Tensor) -> Tensor:
        return self.join(*self.branch(x))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, out_channels, H', W')."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)
