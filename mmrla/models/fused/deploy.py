# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Deployed form: an equivalent network for inference, with fewer operations.

Of the hidden state's cost little is arithmetic; the most are additional passes
over main features. :func:`switch_to_deploy` removes those that it can:

- batch norms are folded into the convs before them (mmcv's ``fuse_conv_bn``), and
  into the reads that join these convs' outputs;
- v1: ``C1(BN(conv3(z)))`` is one 1x1 conv of z, which has a quarter of the
  residual's channels, unless a plugin stands between;
- v3: C1 and the next block's first conv both read x, and become one conv;
- what the first block reads of h_0 = 0 is a constant;
- additions overwrite one of the maps that they add.

The recurrence stays that of :class:`mmrla.models.RLAUnit`.
"""

from copy import deepcopy
from typing import Any, List, Optional, Tuple

import torch
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.densenet_bc import DenseNetBC
from ..backbones.mobilenet_v2 import RLAOverMobileNetV2, convs_of
from ..backbones.preact_resnet import PreActResNet
from ..backbones.resnet import RLAOverResNet
from ..backbones.xception import Xception
from ..layers.plugins import plugin_names
from ..rla import RLA, last_conv

#: Networks whose norms do not follow the conv that is registered before them.
_PRE_ACTIVATED = (DenseNetBC, PreActResNet)


def _add(y: Tensor, other: Tensor) -> Tensor:
    """The sum, in y where no gradient is asked for and the shapes are equal."""
    return y + other if y.requires_grad else y.add_(other)


class _Deployed(RLA):
    """What the deployed forms share: plain blocks, no read of h_0."""

    def read_of(self, i: int, t: int, h: Tensor) -> Optional[Tensor]:
        """The addend of block t of layer i; None for what is folded."""
        unit, index = self.unit_of(i, t)
        return None if (i, t) == (0, 0) else unit.read_of(index, h)

    def step(self, i: int, t: int, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:
        """As :meth:`mmrla.models.RLA.step`."""
        block = self.block_of(i, t)
        unit, index = self.unit_of(i, t)
        y, identity = self.branch(block, x, self.read_of(i, t, h))
        x = self.join(block, y, identity)  # does not overwrite y
        return x, unit(index, y if self.source == 'residual' else x, h)


class _DeployedMobileNetV2(_Deployed, RLAOverMobileNetV2):
    """MobileNetV2: the constant that h_0 gives is in the first linear conv's bias."""


class _DeployedResNet(_Deployed, RLAOverResNet):
    """ResNets: C1 joins the conv before it (v1) or the one beside it (v3).

    ``unit.of_z[t]`` is C1 of the last conv of block t; ``unit.joint[t]`` the next
    block's first conv and C1 of block t. Identities stand where there is none.
    """

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """As :meth:`mmrla.models.RLA.forward`."""
        x = self.forward_stem(x)
        h = self.zero_state(x)
        first: Optional[Tensor] = None
        outs: List[Tensor] = []
        for i, layer in enumerate(self.layers_of_blocks):
            for t in range(len(layer)):
                x, h, first = self.deployed_step(i, t, x, h, first)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs + self.last_outputs(x, h))

    def deployed_step(
        self, i: int, t: int, x: Tensor, h: Tensor, first: Optional[Tensor]
    ) -> Tuple[Tensor, Tensor, Optional[Tensor]]:
        """x, the state, and the next block's first conv of x if it is known."""
        block = self.block_of(i, t)
        unit, index = self.unit_of(i, t)
        read = self.read_of(i, t, h)
        if first is None:
            y = block.conv1(x)
            y = y if read is None else _add(y, read)
        else:
            # A slice of another map: slow to go on with.
            y = first if read is None else first + read
        z = self.middle(block, y)
        y, identity = self.end(block, z), self.shortcut(block, x)
        if index >= unit.num_updates:
            return block.relu(_add(y, identity)), h, None
        if self.source == 'residual':
            of_z = unit.of_z[index]
            joined = isinstance(of_z, nn.Conv2d)
            update = of_z(z) if joined else unit.compress_of(index)(y)
            x = block.relu(_add(y, identity))
            return x, unit.advance(index, update, h), None
        x = block.relu(_add(y, identity) if self.source == 'output' else y + identity)
        joint = unit.joint[index]
        if self.source == 'output' and isinstance(joint, nn.Conv2d):
            k = unit.rla_channels
            first, update = joint(x).split((joint.out_channels - k, k), dim=1)
            return x, unit.advance(index, update, h), first
        source = x if self.source == 'output' else identity
        return x, unit(index, source, h), None


def _conv_like(source: Any, weight: Tensor, bias: Optional[Tensor]) -> nn.Conv2d:
    """A conv like ``source``, ungrouped, with another weight (C', C, kH, kW)."""
    conv = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        source.kernel_size,
        source.stride,
        source.padding,
        source.dilation,
        bias=bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    conv.weight.data.copy_(weight)
    if conv.bias is not None and bias is not None:
        conv.bias.data.copy_(bias)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


def _product(compress: nn.Conv2d, conv: nn.Conv2d) -> nn.Conv2d:
    """One conv of z, k output channels, for compress(conv(z))."""
    c1 = compress.weight.flatten(1)
    weight = torch.einsum('kc,czhw->kzhw', c1, conv.weight)
    return _conv_like(conv, weight, None if conv.bias is None else c1 @ conv.bias)


def _stack(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One conv of x for two of the same geometry: their outputs, concatenated."""
    weight = torch.cat((first.weight, second.weight))
    return _conv_like(first, weight, torch.cat((_bias(first), _bias(second))))


def _norm_of_sum(backbone: RLA, block: Any) -> Any:
    """The norm behind the sum of mixing conv and read."""
    if isinstance(backbone, RLAOverResNet):
        return block.norm1
    if isinstance(backbone, RLAOverMobileNetV2):
        return convs_of(block)[-1].norm
    conv = block.convs[0] if hasattr(block, 'convs') else block.conv  # Xception
    return conv.pointwise_conv.norm


def _scale(read: nn.Module, norm: Any) -> None:
    """Let a read be added behind a norm instead of before it."""
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    last_conv(read).weight.mul_(scale[:, None, None, None])


def _scale_reads(backbone: Any) -> None:
    """What :func:`_fold_norms` does to the convs that the reads join, for the reads."""
    for i, layer in enumerate(backbone.layers_of_blocks):
        for t, block in enumerate(layer):
            unit, index = backbone.unit_of(i, t)
            if unit.read is not None:
                _scale(unit.read[index], _norm_of_sum(backbone, block))
    last = backbone.rla[-1].last
    if last is not None:
        _scale(last, backbone.conv2.norm)


def _fold_norms(model: nn.Module) -> None:
    """mmcv's folding, but for networks in which norms come before their convs."""
    if isinstance(model, _PRE_ACTIVATED):
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, _PRE_ACTIVATED)
    ]
    for parent, name, _ in places:
        setattr(parent, name, nn.Identity())
    fuse_conv_bn(model)
    for parent, name, child in places:
        setattr(parent, name, child)


def is_product(conv: nn.Module) -> bool:
    """Whether a module is a 1x1 conv of stride 1."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.groups == 1
        and conv.padding == (0, 0)
    )


def _join_compress(backbone: Any) -> None:
    """Give the units of a ResNet their joined convs."""
    for i, layer in enumerate(backbone.layers_of_blocks):
        unit, first = backbone.unit_of(i, 0)
        of_z: List[nn.Module] = []
        joint: List[nn.Module] = []
        for t, block in enumerate(layer):
            of_z.append(nn.Identity())
            joint.append(nn.Identity())
            if t >= unit.num_updates:
                continue
            compress = unit.compress_of(t)
            last = backbone.last_conv(block)
            norm = block.norm3 if hasattr(block, 'conv3') else block.norm2
            folded = isinstance(norm, nn.Identity) and not plugin_names(block, 3)
            if backbone.source == 'residual' and folded and is_product(last):
                of_z[-1] = _product(compress, last)
            following = layer[t + 1] if t + 1 < len(layer) else None
            if backbone.source == 'output' and following is not None:
                if is_product(following.conv1):
                    joint[-1] = _stack(following.conv1, compress)
        unit.of_z, unit.joint = nn.ModuleList(of_z), nn.ModuleList(joint)


def _fold_zero_state(backbone: Any) -> None:
    """The first block reads h_0 = 0: zero in a ResNet, a constant in MobileNetV2."""
    unit, _ = backbone.unit_of(0, 0)
    if unit.read is None or not isinstance(backbone, RLAOverMobileNetV2):
        return
    conv = convs_of(backbone.block_of(0, 0))[-1].conv
    constant = unit.read[0](conv.weight.new_zeros(1, unit.rla_channels, 1, 1))
    conv.bias = nn.Parameter(_bias(conv) + constant.flatten())


def _deploy(backbone: Any) -> None:
    """Give a backbone, its norms folded, its deployed form."""
    if isinstance(backbone, RLAOverResNet):
        form: Any = _DeployedResNet
        _join_compress(backbone)
    elif isinstance(backbone, RLAOverMobileNetV2):
        form = _DeployedMobileNetV2
        _fold_zero_state(backbone)
    else:
        return
    cls = type(backbone)
    # The class alone changes: a copy of the copy is deployed, too.
    backbone.__class__ = type(f'Deployed{cls.__name__}', (form, cls), {})


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
    model.train(False)
    with torch.no_grad():
        backbones = [
            m
            for m in model.modules()
            if isinstance(m, RLA) and m.rla is not None
            if not isinstance(m, _Deployed)
        ]
        for backbone in backbones:
            if isinstance(backbone, (RLAOverResNet, RLAOverMobileNetV2, Xception)):
                _scale_reads(backbone)
        _fold_norms(model)
        for backbone in backbones:
            _deploy(backbone)
    for param in model.parameters():
        param.requires_grad_(False)
    return model
