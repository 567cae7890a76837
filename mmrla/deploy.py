# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""An equivalent network for inference, with fewer and larger operations.

Of the hidden state's cost little is arithmetic; the most are additional passes
over main features. :func:`switch_to_deploy` removes those that it can:

- batch norms are folded into the convs before them (mmcv's ``fuse_conv_bn``);
- v1: ``C1(BN(conv3(z)))`` is one 1x1 conv of z, which has a quarter of the
  residual's channels, unless attention stands between;
- v3: C1 and the next block's first conv both read x, and become one conv;
- convs read x and h separately, instead of a concatenation that copies x;
- additions overwrite one of the maps that they add.

The recurrence stays that of :class:`mmrla.models.RLAUnit`.
"""

from copy import deepcopy
from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn

from .models.backbones.densenet_bc import DenseNetBC
from .models.backbones.rla_mobilenet_v2 import InvertedResidual
from .models.backbones.rla_preact_resnet import RLAPreActResNet
from .models.backbones.rla_resnet import Bottleneck
from .models.rla import RLAUnit, State
from .models.stage import RLABlock, RLAStage


def _conv(source: nn.Conv2d, weight: Tensor, bias: Optional[Tensor]) -> nn.Conv2d:
    """A conv like ``source`` with other weights (C', C / groups, kH, kW)."""
    groups = weight.shape[0] if source.groups > 1 else 1
    conv = nn.utils.skip_init(
        nn.Conv2d,
        weight.shape[1] * groups,
        weight.shape[0],
        source.kernel_size,
        stride=source.stride,
        padding=source.padding,
        dilation=source.dilation,
        groups=groups,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight)
        if bias is not None:
            conv.bias.copy_(bias)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def _stack(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One conv of x for two of the same geometry: their outputs, concatenated."""
    return _conv(
        first,
        torch.cat((first.weight, second.weight)),
        torch.cat((_bias(first), _bias(second))),
    )


def _product(compress: nn.Conv2d, conv: nn.Conv2d) -> nn.Conv2d:
    """One conv of z, k output channels, for compress(conv(z))."""
    c1 = compress.weight.flatten(1)
    weight = torch.einsum('kc,czhw->kzhw', c1, conv.weight)
    return _conv(conv, weight, None if conv.bias is None else c1 @ conv.bias)


def _is_identity(*modules: nn.Module) -> bool:
    """Whether norms are folded, or other modules absent."""
    return all(isinstance(module, nn.Identity) for module in modules)


class SplitConv(nn.Module):
    """``conv(concat(x, h))`` as two convs, without the concatenation.

    Args:
        conv (nn.Conv2d): The conv, of groups 1.
        channels (int): Channels of x; the conv's others read h.
    """

    def __init__(self, conv: nn.Conv2d, channels: int) -> None:
        super().__init__()
        self.main = _conv(conv, conv.weight[:, :channels], conv.bias)
        self.hidden = (
            _conv(conv, conv.weight[:, channels:], None)
            if conv.in_channels > channels
            else None
        )

    def forward(
        self, x: Tensor, h: Optional[Tensor], of_x: Optional[Tensor] = None
    ) -> Tensor:
        """Maps x, (N, C, H, W), and h, (N, k, H, W) or None for zero.

        Args:
            x: Main features.
            h: Hidden state.
            of_x: The part of the result that x gives, if known, (N, C', H', W').
        """
        if h is None or self.hidden is None:
            return self.main(x) if of_x is None else of_x
        if of_x is None:
            return self.main(x).add_(self.hidden(h))
        # A slice of another map: slow to go on with.
        return of_x + self.hidden(h)


class DeployedBlock(nn.Module):
    """A block as it is: what families without an own deployed form get.

    Args:
        block: The block, its norms folded.
    """

    def __init__(self, block: RLABlock) -> None:
        super().__init__()
        self.block = block
        #: The conv that reads x and h first, if C1 of x can join it.
        self.first: Any = None

    def join_compress(self, compress: nn.Conv2d) -> bool:
        """Make C1 part of a conv of the residual branch, if that is possible."""
        return False

    def branch(
        self, x: Tensor, h: Optional[Tensor], first: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Residual, identity and, if C1 has been joined, C1 of the residual.

        Args:
            x: Main features (N, C, H, W).
            h: Hidden state (N, k, H, W), or None for zero.
            first: The first conv's part of x, if known.
        """
        y, identity = self.block.branch(x, h)
        return self.block.end(y)[0], identity, None


class DeployedBottleneck(DeployedBlock):
    """A bottleneck that reads x and h by two convs.

    Args:
        block: The block, its norms folded.
        hidden_channels: Channels of h that it reads.
    """

    def __init__(self, block: Bottleneck, hidden_channels: int) -> None:
        super().__init__(block)
        channels = block.conv1.in_channels - hidden_channels
        self.first = SplitConv(block.conv1, channels)
        self.compress: Optional[nn.Conv2d] = None
        del block.conv1

    def join_compress(self, compress: nn.Conv2d) -> bool:
        """C1 of the residual becomes a conv of what the last conv reads."""
        if not _is_identity(self.block.bn3, self.block.attention):
            return False
        self.compress = _product(compress, self.block.conv3)
        return True

    def branch(
        self, x: Tensor, h: Optional[Tensor], first: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Residual, identity and C1 of the residual."""
        z = self.block.middle(self.first(x, h, first))
        update = None if self.compress is None else self.compress(z)
        y = self.block.end(z)[0]
        return y, self.block.downsample(x), update


class DeployedInvertedResidual(DeployedBlock):
    """An inverted residual whose depthwise and last convs are split by x and h.

    Args:
        block: The block, its norms folded.
        zero_state (bool): Whether the hidden state is always zero here; its
            part of the output is then a constant.
    """

    def __init__(self, block: InvertedResidual, zero_state: bool) -> None:
        super().__init__(block)
        depthwise, project = block.depthwise.conv, block.project.conv
        main = depthwise.out_channels - block.hidden_channels
        bias = _bias(depthwise)
        self.depthwise = _conv(depthwise, depthwise.weight[:main], bias[:main])
        self.project = SplitConv(project, main)
        self.hidden: Optional[nn.Conv2d] = None
        if block.hidden_channels and zero_state:
            constant = project.weight[:, main:, 0, 0] @ F.relu6(bias[main:])
            self.project.main.bias = nn.Parameter(_bias(self.project.main) + constant)
            self.project.hidden = None
        elif block.hidden_channels:
            self.hidden = _conv(depthwise, depthwise.weight[main:], bias[main:])
        del block.depthwise, block.project

    def branch(
        self, x: Tensor, h: Optional[Tensor], first: Optional[Tensor]
    ) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
        """Residual and identity; C1 reads the residual, which is narrow."""
        z = F.relu6(self.depthwise(self.block.expand(x)), inplace=True)
        if self.hidden is not None:
            h = F.relu6(self.hidden(h), inplace=True)
        y = self.block.attention(self.project(z, h))
        return y, x if self.block.has_identity else None, None


def _deployed_block(
    block: RLABlock, hidden_channels: int, zero_state: bool
) -> DeployedBlock:
    if type(block) is Bottleneck and type(block.conv1) is nn.Conv2d:
        return DeployedBottleneck(block, hidden_channels)
    if type(block) is InvertedResidual and _is_identity(
        block.depthwise.norm, block.project.norm
    ):
        return DeployedInvertedResidual(block, zero_state)
    return DeployedBlock(block)


class DeployedStage(nn.Module):
    """A stage for inference; the recurrence is still the unit's.

    Args:
        stage (RLAStage): The stage, in eval mode, its norms folded.
        hidden_channels (int): Channels of the hidden state that blocks read.
        zero_state (bool): Whether its input comes with the zero state.
    """

    def __init__(self, stage: RLAStage, hidden_channels: int, zero_state: bool) -> None:
        super().__init__()
        self.rla: Optional[RLAUnit] = stage.rla
        self.exchange = stage.exchange
        self.out_channels: List[int] = [b.out_channels for b in stage.blocks]
        self.blocks = nn.ModuleList(
            _deployed_block(block, hidden_channels, zero_state and t == 0)
            for t, block in enumerate(stage.blocks)
        )
        self.num_updates = 0 if stage.rla is None else stage.rla.num_updates
        #: C1 of each update, where it could not join another conv.
        self.compress = nn.ModuleList()
        #: C1 and the next block's first conv of x in one, where that is possible.
        self.joint = nn.ModuleList()
        if stage.rla is not None:
            for t in range(self.num_updates):
                self._join(t, stage.rla)
            stage.rla.compress = nn.ModuleList()

    def _join(self, t: int, unit: RLAUnit) -> None:
        # Any: attributes of modules are Tensor or Module to the type checker.
        block: Any = self.blocks[t]
        compress: Any = unit.compress_module(t)
        following: Any = self.blocks[t + 1] if t + 1 < len(self.blocks) else None
        joint = None
        if unit.integration.source == 'residual' and block.join_compress(compress):
            compress = None
        elif (
            unit.integration.source == 'output'
            and following is not None
            and following.first is not None
        ):
            joint = _stack(following.first.main, compress)
            compress = None
            del following.first.main
        self.joint.append(nn.Identity() if joint is None else joint)
        self.compress.append(nn.Identity() if compress is None else compress)

    def step(
        self, t: int, x: Tensor, state: State, first: Optional[Tensor]
    ) -> Tuple[Tensor, State, Optional[Tensor]]:
        """x, the state, and the next block's first conv of x, after block t."""
        block = self.blocks[t]
        unit = self.rla if t < self.num_updates else None
        source = None if unit is None else unit.integration.source
        h = state[0] if state is not None and self.exchange else None
        y, identity, update = block.branch(x, h, first)
        if source == 'residual' and update is None:
            # Before the addition overwrites the residual.
            update = self.compress[t](y)
        if identity is not None:
            y = y + identity if y.requires_grad else y.add_(identity)
        x = block.block.act(y)
        if unit is None:
            return x, state, None
        joint, first = self.joint[t], None
        if isinstance(joint, nn.Conv2d):
            k = unit.rla_channels
            first, update = joint(x).split((joint.out_channels - k, k), dim=1)
        elif update is None:
            update = self.compress[t](x if source == 'output' else identity)
        return x, unit.advance(t, update, state), first

    def forward(self, x: Tensor, state: State = None) -> Tuple[Tensor, State]:
        """As :meth:`mmrla.models.RLAStage.forward`."""
        first: Optional[Tensor] = None
        for t in range(len(self.blocks)):
            x, state, first = self.step(t, x, state, first)
        return x, state


def _fold_norms(model: nn.Module) -> None:
    """mmcv's folding, which takes a norm to follow the conv registered before it.

    In pre-activated backbones it does not: these are left out.
    """
    kinds = (DenseNetBC, RLAPreActResNet)
    if isinstance(model, kinds):
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]
    for parent, name, _ in places:
        setattr(parent, name, nn.Identity())
    fuse_conv_bn(model)
    for parent, name, child in places:
        setattr(parent, name, child)


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """An equivalent copy of ``model`` for inference.

    Args:
        model: A backbone, classifier or detector, with or without RLA. It is
            not changed.

    Returns:
        The copy, in eval mode, without gradients. Its outputs equal the
        model's up to rounding. Its ``state_dict`` loads into another deployed
        copy of the same config.
    """
    model = deepcopy(model)
    model.eval()
    with torch.no_grad():
        _fold_norms(model)
        for backbone in [m for m in model.modules() if hasattr(m, 'stage_names')]:
            zero_state = True
            for name in backbone.stage_names:
                stage: RLAStage = getattr(backbone, name)
                # A block with a forward pass of its own keeps it.
                if all(type(b).forward is RLABlock.forward for b in stage.blocks):
                    deployed = DeployedStage(stage, backbone.hidden_inputs, zero_state)
                    setattr(backbone, name, deployed)
                zero_state = zero_state and stage.rla is None
    for param in model.parameters():
        param.requires_grad_(False)
    return model
