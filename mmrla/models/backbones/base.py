# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What all RLA backbones share: stages in a row, outputs, freezing, modes."""

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from ..checks import check_choice, check_range
from ..rla import CELLS, INTEGRATIONS, RLAUnit, State
from ..stage import RLABlock, RLAStage

#: A config of an attention plugin for all stages, or one for each.
AttentionCfg = Union[None, dict, Sequence[Optional[dict]]]

DEFAULT_INIT_CFG: List[dict] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


class RLABackbone(BaseModule):
    """Base of the RLA backbones.

    A family builds its stem and calls :meth:`add_stage` for each stage; the
    forward pass, the hidden state and the modes are here.

    Args:
        num_stages (int): Number of stages of the family.
        rla_channels (int): Channels k of the hidden state; 0 builds the plain
            network.
        integration (str): How the main network is integrated into the hidden
            state, 'v1' (the paper's) to 'v6'; published weights need 'v3'.
        cell (str): 'conv' (the paper's), 'post-act', 'convlstm' or 'convgru'.
        shared (bool): Whether the blocks of a stage share C1 and C3.
        exchange (bool): Whether blocks read the hidden state.
        return_hidden (bool): Whether the outputs end with the last hidden
            state, as a classifier needs it. Without it (detection) the last
            update, which nothing would read, is neither computed nor built.
        out_indices: Stages (from 0) whose outputs are returned. Stages after
            the last of them are not built.
        frozen_stages (int): Stages, with their RLA units, whose parameters
            and norms are fixed: -1 none, 0 the stem, n the stem and n stages.
        norm_eval (bool): Whether batch norms stay in eval mode.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict, optional): Config of norm layers. Defaults to BN.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
        zero_init_residual (bool): Whether the last norm of each residual
            branch starts at zero.
        init_cfg: Initialisation; He normal, fan-out, by default.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.
    """

    def __init__(
        self,
        num_stages: int,
        rla_channels: int,
        integration: str = 'v1',
        cell: str = 'conv',
        shared: bool = True,
        exchange: bool = True,
        return_hidden: bool = False,
        out_indices: Sequence[int] = (3,),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        conv_cfg: Optional[dict] = None,
        norm_cfg: Optional[dict] = None,
        with_cp: bool = False,
        zero_init_residual: bool = True,
        init_cfg: Union[None, dict, List[dict]] = None,
    ) -> None:
        super().__init__(DEFAULT_INIT_CFG if init_cfg is None else init_cfg)
        check_range('rla_channels', rla_channels, 0, 4096)
        check_choice('integration', integration, INTEGRATIONS)
        check_choice('cell', cell, CELLS)
        if not out_indices or list(out_indices) != sorted(set(out_indices)):
            raise ValueError(
                f'out_indices={tuple(out_indices)!r} must be increasing stage '
                f'indices from 0 to {num_stages - 1}'
            )
        for index in out_indices:
            check_range('out_indices entry', index, 0, num_stages - 1)
        check_range('frozen_stages', frozen_stages, -1, num_stages)
        if return_hidden and not rla_channels:
            raise ValueError('return_hidden=True needs rla_channels of at least 1')
        self.rla_channels = rla_channels
        self.integration = integration
        self.cell = cell
        self.shared = shared
        self.exchange = exchange
        self.return_hidden = return_hidden
        self.out_indices = tuple(out_indices)
        self.num_stages = self.out_indices[-1] + 1
        self.frozen_stages = min(frozen_stages, self.num_stages)
        self.norm_eval = norm_eval
        self.conv_cfg = conv_cfg
        self.norm_cfg = dict(norm_cfg or dict(type='BN', requires_grad=True))
        self.with_cp = with_cp
        self.zero_init_residual = zero_init_residual
        self.stage_names: List[str] = []

    @property
    def hidden_inputs(self) -> int:
        """Channels of the hidden state that a block reads."""
        return self.rla_channels if self.exchange else 0

    @property
    def stages(self) -> List[RLAStage]:
        """The stages, in order."""
        return [getattr(self, name) for name in self.stage_names]

    @property
    def out_channels(self) -> Tuple[int, ...]:
        """Channels of the stage outputs at ``out_indices``."""
        stages = self.stages
        return tuple(stages[i].blocks[-1].out_channels for i in self.out_indices)

    def add_stage(
        self, blocks: Sequence[RLABlock], stride: int, **rla_kwargs: Any
    ) -> None:
        """Append a stage of ``blocks``.

        Args:
            blocks: The stage's blocks.
            stride: Stride of the first block.
            **rla_kwargs: Further arguments of :class:`RLAUnit`.
        """
        is_last = len(self.stage_names) + 1 == self.num_stages
        num_updates = len(blocks) - int(is_last and not self.return_hidden)
        rla = None
        # Without exchange nothing but the classifier reads the state.
        if self.rla_channels and num_updates and (self.exchange or self.return_hidden):
            rla = RLAUnit(
                [block.out_channels for block in blocks],
                self.rla_channels,
                stride=stride,
                num_updates=num_updates,
                integration=self.integration,
                cell=self.cell,
                shared=self.shared,
                conv_cfg=self.conv_cfg,
                norm_cfg=self.norm_cfg,
                **rla_kwargs,
            )
        name = f'layer{len(self.stage_names) + 1}'
        self.add_module(name, RLAStage(blocks, rla, self.exchange, self.with_cp))
        self.stage_names.append(name)

    def stem_modules(self) -> List[nn.Module]:
        """The modules before the first stage, for freezing."""
        raise NotImplementedError

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to the first stage's input."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """What follows the last stage's output; nothing by default."""
        return x

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Stage outputs of a batch of images.

        Args:
            x: Images (N, in_channels, H, W).

        Returns:
            The outputs (N, C, H', W') of the stages at ``out_indices`` and,
            with ``return_hidden``, the last hidden state (N, k, H', W').
        """
        x = self.forward_stem(x)
        state: State = None
        outs = []
        for i, stage in enumerate(self.stages):
            x, state = stage(x, state)
            if i + 1 == self.num_stages:
                x = self.finish(x)
            if i in self.out_indices:
                outs.append(x)
        if self.return_hidden:
            assert state is not None  # return_hidden implies updates
            outs.append(state[0])
        return tuple(outs)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says, then zero the residual branches."""
        super().init_weights()
        if isinstance(self.init_cfg, dict) and self.init_cfg['type'] == 'Pretrained':
            return
        if self.zero_init_residual:
            for stage in self.stages:
                for block in stage.blocks:
                    last_norm = block.last_norm
                    if last_norm is not None:
                        nn.init.zeros_(last_norm.weight)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: List[nn.Module] = self.stem_modules()
        frozen += self.stages[: self.frozen_stages]
        for module in frozen:
            module.eval()
            for param in module.parameters():
                param.requires_grad = False

    def train(self, mode: bool = True) -> 'RLABackbone':
        """Set the mode; frozen stages and, with ``norm_eval``, norms stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter for layer-wise learning-rate decay.

        Each block is a layer. BN_t belongs to its block, C1 and C3 to the last
        block of their stage.

        Args:
            param_name (str): The parameter's name.
            prefix (str): The backbone's prefix in it. Defaults to ''.

        Returns:
            The depth, from 0 for the stem, and the number of layers.
        """
        blocks = [len(stage.blocks) for stage in self.stages]
        num_layers = sum(blocks) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split('.')
        if parts[0] not in self.stage_names:
            stem = {
                name
                for name, module in self.named_children()
                if any(module is m for m in self.stem_modules())
            }
            return (0 if parts[0] in stem else num_layers - 1), num_layers
        stage = self.stage_names.index(parts[0])
        before = sum(blocks[:stage])
        own = parts[1] == 'blocks' or parts[2] == 'norms'
        block = int(parts[2 if parts[1] == 'blocks' else 3]) if own else -1
        return before + (block + 1 if own else blocks[stage]), num_layers


def attention_of_stage(attention: AttentionCfg, stage: int, num_stages: int) -> Any:
    """The attention config of one stage.

    Raises:
        ValueError: If a sequence of configs has not one for each stage.
    """
    if attention is None or isinstance(attention, Dict):
        return attention
    if isinstance(attention, str) or len(attention) != num_stages:
        raise ValueError(
            f'attention={attention!r} must be None, a config or a list of '
            f'{num_stages} of them, one for each stage'
        )
    return attention[stage]
