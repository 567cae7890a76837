# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Base classes of the plain networks that upstream does not have.

They have no ``forward``: :class:`mmrla.models.RLA` runs their blocks, with a hidden
state or, with ``rla_channels=0``, without.
"""

from typing import List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..checks import check_range
from ..rla import INIT_CFG


class PlainBackbone(BaseModule):
    """Base of the plain networks for images of 32x32.

    A family defines ``forward_stem`` and :meth:`stem_modules`, and calls
    :meth:`add_layer` for each stage. Its blocks have what :class:`mmrla.models.RLA`
    needs: ``branch(x, read=None)``, ``join(y, identity)``, ``mixing_conv``,
    ``make_read(channels, norm_cfg)`` and ``out_channels``.

    Args:
        num_stages (int): Number of stages of the family.
        out_indices: Indices (from 0) of the stages whose outputs are returned, in
            increasing order. Stages after the last of them are not built.
        frozen_stages (int): Number of frozen stages: -1 for none, 0 for the stem,
            n for the stem and the first n stages. Defaults to -1.
        norm_eval (bool): Whether batch norms stay in eval mode. Defaults to False.
        norm_cfg (dict): Config of norm layers. Defaults to BN.
        with_cp (bool): Whether to recompute blocks in the backward pass, which saves
            memory. Defaults to False.
        init_cfg: As in BaseModule. Defaults to None, He normal by fan-out.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.
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
        """Append a stage with these blocks, ``layer1``, ``layer2``, ..."""
        name = f'layer{len(self.res_layers) + 1}'
        self.add_module(name, nn.Sequential(*blocks))
        self.res_layers.append(name)

    def stem_modules(self) -> List[nn.Module]:
        """The modules before the first stage, which ``frozen_stages=0`` freezes."""
        raise NotImplementedError

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        layers = [getattr(self, name) for name in self.res_layers]
        for module in [*self.stem_modules(), *layers[: self.frozen_stages]]:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> 'PlainBackbone':
        """Set the mode; frozen stages and ``norm_eval``'s norms stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


class PlainBlock(BaseModule):
    """Base of their blocks, in the parts that :class:`mmrla.models.RLA` needs."""

    def branch(
        self, x: Tensor, read: Optional[Tensor] = None
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """The residual and the identity, see :meth:`mmrla.models.RLA.branch`."""
        raise NotImplementedError

    def join(self, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The block's output from residual and identity, (N, C', H', W')."""
        return y if identity is None else y + identity
