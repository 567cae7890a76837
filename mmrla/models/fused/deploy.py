# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Deployed form: an equivalent network for inference, with fewer operations.

Most of the hidden state's cost is not arithmetic, but additional passes over main
features. :func:`switch_to_deploy` leaves convs, each followed by at most one addition
and an activation, which runtimes (ONNX Runtime, OpenVINO) fuse into one operator:

- Batch norms are folded into the convs before them (mmcv's ``fuse_conv_bn``), and into
  the reads that are added to the outputs of these convs.
- BN_t, which follows the sum of C1 and the state, is folded into C1, the C3 before it
  and the reads of the state.
- v1: ``C1(BN(conv3(z)))`` becomes one 1x1 conv of z, which has a quarter of the
  residual's channels, unless a plugin comes in between.
- The read of h_0 = 0 becomes a constant, and the read of the last state a part of
  MobileNetV2's last conv.
- Additions overwrite one of the maps that they add.
"""

from collections import Counter
from copy import deepcopy
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from mmcv.cnn import fuse_conv_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.densenet_bc import DenseNetBC
from ..backbones.mobilenet_v2 import RLAOverMobileNetV2, convs_of
from ..backbones.preact_resnet import PreActResNet
from ..backbones.resnet import RLAOverResNet
from ..backbones.xception import Xception
from ..layers.plugins import plugin_names
from ..rla import RLA, RLAUnit, last_conv

#: Networks whose norms come before their convs.
_PRE_ACTIVATED = (DenseNetBC, PreActResNet)


def _add(y: Tensor, other: Tensor) -> Tensor:
    """The sum, written into y unless y needs a gradient."""
    return y + other if y.requires_grad else y.add_(other)


class _HalvingFunction(torch.autograd.Function):
    """Average pooling, exported with padding at the end instead of ``ceil_mode``.

    The numbers are the same. But for images of any size ONNX Runtime can tell that the
    output has the size of a strided conv's, which it must know to fuse additions.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, stride: int) -> Tensor:
        return F.avg_pool2d(h, stride, ceil_mode=True, count_include_pad=False)

    @staticmethod
    def symbolic(g: Any, h: Any, stride: int) -> Any:
        size, pads = [stride, stride], [0, 0, stride - 1, stride - 1]
        how = dict(kernel_shape_i=size, strides_i=size, pads_i=pads)
        return g.op('AveragePool', h, count_include_pad_i=0, **how)


class _Pool(nn.AvgPool2d):
    """Average pooling that rounds sizes up, in the form best exported."""

    def forward(self, h: Tensor) -> Tensor:
        """(N, k, H, W) to (N, k, H', W')."""
        if torch.onnx.is_in_onnx_export():
            return _HalvingFunction.apply(h, self.stride)
        return super().forward(h)


class _FoldedUnit(RLAUnit):
    """A unit without norms: convs and tanh.

    With BN_t(a) = s_t a + b_t its state is s_{t+1} h_t. C1 contains s_t and b_t, C3
    contains s_{t+1}, and the reads divide by it. h_0 = 0 is None.
    """

    def advance(self, t: int, update: Tensor, h: Optional[Tensor]) -> Tensor:
        """As :meth:`mmrla.models.RLAUnit.advance`."""
        if h is not None:
            update = _add(update, self.pool(h) if t == 0 else h)
        return self.recurrent_of(t)(torch.tanh(update))


class _Deployed(RLA):
    """Base of the deployed forms: no read of h_0, and a C1 and a C3 for each block.

    ``of_z`` of a unit says for each block whether its C1 reads z, the input of the
    block's last conv, instead of the residual.
    """

    def zero_state(self, x: Tensor) -> Any:
        """h_0: None where norms are folded."""
        folded = isinstance(self.rla[0], _FoldedUnit)
        return None if folded else super().zero_state(x)

    def read_of(self, i: int, t: int, h: Any) -> Optional[Tensor]:
        """What block t of layer i reads of h; None for the first block."""
        unit, index = self.unit_of(i, t)
        return None if (i, t) == (0, 0) else unit.read_of(index, h)


class _DeployedMobileNetV2(_Deployed, RLAOverMobileNetV2):
    """MobileNetV2: the read of h_0 is in the bias of the first linear conv."""

    def step(self, i: int, t: int, x: Tensor, h: Any) -> Tuple[Tensor, Any]:
        """As :meth:`mmrla.models.RLA.step`."""
        block = self.block_of(i, t)
        unit, index = self.unit_of(i, t)
        read = self.read_of(i, t, h)
        folded = isinstance(convs_of(block)[-1].norm, nn.Identity)
        if self.source == 'output' and folded and not plugin_names(block, 3):
            # So each of the two convs is followed by one addition.
            y, identity = self.branch(block, x, None)
            x = y if identity is None else _add(y, identity)
            x = x if read is None else _add(x, read)
            return x, unit(index, x, h)
        y, identity = self.branch(block, x, read)
        x = self.join(block, y, identity)  # does not overwrite y
        return x, unit(index, y if self.source == 'residual' else x, h)

    def last_outputs(self, x: Tensor, state: Any) -> List[Tensor]:
        """The outputs after the blocks, with one ``conv2`` of concat(x, h)."""
        if not self.runs_last_conv or not self.exchange or self.rla[-1].last.conv:
            return super().last_outputs(x, state)
        last = self.rla[-1].last
        read = last.act(last.norm(self.rla[-1].hidden(state)))
        y = self.conv2.activate(self.conv2.conv(torch.cat((x, read), dim=1)))
        return [y, *RLA.last_outputs(self, x, state)]


class _DeployedResNet(_Deployed, RLAOverResNet):
    """ResNets: for v1, C1 and the conv before it are one."""

    def step(self, i: int, t: int, x: Tensor, h: Any) -> Tuple[Tensor, Any]:
        """As :meth:`mmrla.models.RLA.step`."""
        block = self.block_of(i, t)
        unit, index = self.unit_of(i, t)
        read = self.read_of(i, t, h)
        y = block.conv1(x)
        z = self.middle(block, y if read is None else _add(y, read))
        y, identity = self.end(block, z), self.shortcut(block, x)
        if index >= unit.num_updates:
            return block.relu(_add(y, identity)), h
        if self.source == 'output':
            x = block.relu(_add(y, identity))
            return x, unit(index, x, h)
        source = z if unit.of_z[index] else y
        if self.source == 'identity':
            source = identity
        # Before the sum overwrites y.
        update = unit.compress_of(index)(source)
        return block.relu(_add(y, identity)), unit.advance(index, update, h)


def _conv_like(source: Any, weight: Tensor, bias: Optional[Tensor]) -> nn.Conv2d:
    """A conv like ``source``, without groups, of weight (C', C, kH, kW) and bias."""
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
    """compress(conv(z)) as one conv of z with k output channels."""
    c1 = compress.weight.flatten(1)
    weight = torch.einsum('kc,czhw->kzhw', c1, conv.weight)
    return _conv_like(conv, weight, _bias(compress) + c1 @ _bias(conv))


def _norm_of_sum(backbone: RLA, block: Any) -> Any:
    """The norm after the sum of mixing conv and read."""
    if isinstance(backbone, RLAOverResNet):
        return block.norm1
    if isinstance(backbone, RLAOverMobileNetV2):
        return convs_of(block)[-1].norm
    conv = block.convs[0] if hasattr(block, 'convs') else block.conv  # Xception
    return conv.pointwise_conv.norm


def _affine(norm: Any) -> Optional[Tuple[Tensor, Tensor]]:
    """s and b of BN(a) = s a + b in eval mode, (C, ) each; None for other norms."""
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - scale * norm.running_mean


def _scale(read: nn.Module, norm: Any) -> None:
    """Scale a read so that it can be added after a norm instead of before it."""
    affine = _affine(norm)
    if affine is not None:
        last_conv(read).weight.mul_(affine[0][:, None, None, None])


def _scale_reads(backbone: Any) -> None:
    """Scale all reads as :func:`_fold_norms` scales the convs they are added to."""
    for i, layer in enumerate(backbone.layers_of_blocks):
        for t, block in enumerate(layer):
            unit, index = backbone.unit_of(i, t)
            if unit.read is not None:
                _scale(unit.read[index], _norm_of_sum(backbone, block))
    last = backbone.rla[-1].last
    if last is not None:
        _scale(last, backbone.conv2.norm)


def _fold_norms(model: nn.Module) -> None:
    """Fold norms as mmcv does, but leave convs without a norm of their own after them.

    In pre-activated networks norms come before their convs. Heads with norms for each
    level (``RetinaSepBNHead``) have several for one conv.
    """
    owners: Dict[nn.Module, int] = Counter(
        child
        for module in model.modules()
        for child in module.children()
        if isinstance(child, nn.Conv2d)
    )
    kept = [
        module
        for module in model.modules()
        if isinstance(module, _PRE_ACTIVATED)
        or any(owners.get(child, 0) > 1 for child in module.children())
    ]
    if model in kept:
        return
    places = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if child in kept
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


def _unshare(unit: Any) -> None:
    """Give each block of a unit its own copy of C1 and C3."""
    updates = range(unit.num_updates)
    for name in ('compress', 'recurrent'):
        of = getattr(unit, f'{name}_of')
        setattr(unit, name, nn.ModuleList(deepcopy(of(t)) for t in updates))
        setattr(unit, f'_{name}_of', list(updates))
    unit._tied = ()
    unit.of_z = [False] * unit.num_updates
    if isinstance(unit.pool, nn.AvgPool2d):
        unit.pool.__class__ = _Pool


def _fold_state_norms(backbone: Any) -> None:
    """Fold the BN_t of all units, provided that all are invertible affine maps."""
    steps = [
        backbone.unit_of(i, t)
        for i, layer in enumerate(backbone.layers_of_blocks)
        for t in range(len(layer))
    ]
    updates = [(unit, t) for unit, t in steps if t < unit.num_updates]
    affines: List[Any] = [_affine(unit.norms[t]) for unit, t in updates]
    if (
        backbone.cell != 'conv'
        or not backbone.rla[0].before_recurrence
        or any(affine is None or not affine[0].all() for affine in affines)
    ):
        return
    for n, (unit, t) in enumerate(updates):
        scale, shift = affines[n]
        compress = unit.compress[t]
        weight = compress.weight * scale[:, None, None, None]
        shift = shift + scale * _bias(compress)
        unit.compress[t] = _conv_like(compress, weight, shift)
        if n + 1 == len(updates):
            continue
        scale = affines[n + 1][0][:, None, None, None]
        last_conv(unit.recurrent[t]).weight.mul_(scale)
        unit, t = updates[n + 1]
        if unit.read is not None:
            read = first_conv(unit.read[t])
            read.weight.div_(scale if read.groups > 1 else scale.transpose(0, 1))
    for unit in backbone.rla:
        unit.norms = nn.ModuleList()
        unit.__class__ = _FoldedUnit


def first_conv(read: nn.Module) -> nn.Conv2d:
    """The first conv of a read."""
    return next(m for m in read.modules() if isinstance(m, nn.Conv2d))


def _join_compress(backbone: Any) -> None:
    """Merge each C1 that reads the residual of a ResNet with the block's last conv."""
    for i, layer in enumerate(backbone.layers_of_blocks):
        unit, _ = backbone.unit_of(i, 0)
        for t, block in enumerate(list(layer)[: unit.num_updates]):
            last = backbone.last_conv(block)
            norm = block.norm3 if hasattr(block, 'conv3') else block.norm2
            folded = isinstance(norm, nn.Identity) and not plugin_names(block, 3)
            if backbone.source == 'residual' and folded and is_product(last):
                unit.compress[t] = _product(unit.compress[t], last)
                unit.of_z[t] = True


def _fold_zero_state(backbone: Any) -> None:
    """Add the read of h_0 = 0 to a bias in MobileNetV2; in a ResNet it is zero."""
    unit, _ = backbone.unit_of(0, 0)
    if unit.read is None or not isinstance(backbone, RLAOverMobileNetV2):
        return
    conv = convs_of(backbone.block_of(0, 0))[-1].conv
    constant = unit.read[0](conv.weight.new_zeros(1, unit.rla_channels, 1, 1))
    conv.bias = nn.Parameter(_bias(conv) + constant.flatten())


def _join_last_read(backbone: Any) -> None:
    """Make the read of the last state of MobileNetV2 a part of ``conv2``.

    The maps to concatenate are small, and runtimes fuse the ReLU6 with the conv.
    """
    last = backbone.rla[-1].last
    if last is None or not isinstance(backbone.conv2.norm, nn.Identity):
        return
    conv = backbone.conv2.conv
    weight = torch.cat((conv.weight, last.conv.weight), dim=1)
    backbone.conv2.conv = _conv_like(conv, weight, _bias(conv))
    last.conv = None


def _deploy(backbone: Any) -> None:
    """Switch a backbone with folded norms to its deployed form."""
    if not isinstance(backbone, (RLAOverResNet, RLAOverMobileNetV2)):
        return
    for unit in backbone.rla:
        _unshare(unit)
    _fold_state_norms(backbone)
    form: Any = _DeployedMobileNetV2
    if isinstance(backbone, RLAOverResNet):
        form = _DeployedResNet
        _join_compress(backbone)
    else:
        _fold_zero_state(backbone)
        _join_last_read(backbone)
    cls = type(backbone)
    # Only the class changes, so copies are deployed, too.
    backbone.__class__ = type(f'Deployed{cls.__name__}', (form, cls), {})


def switch_to_deploy(model: nn.Module, only_rla: bool = False) -> nn.Module:
    """Make an equivalent copy of a network for inference.

    Args:
        model: A backbone, classifier or detector, with or without RLA. It is not
            changed.
        only_rla (bool): Whether to leave everything but RLA backbones as it is. With
            False the norms of necks, heads and plain backbones are folded too, on
            mmcv's assumption that a norm registered after a conv follows it.
            Defaults to False.

    Returns:
        The copy, in eval mode and without gradients. Its outputs equal the model's up
        to rounding. Its ``state_dict`` fits other deployed copies of the same config.
    """
    model = deepcopy(model)
    model.train(False)
    with torch.no_grad():
        backbones = [m for m in rla_backbones(model) if not isinstance(m, _Deployed)]
        for backbone in backbones:
            if isinstance(backbone, (RLAOverResNet, RLAOverMobileNetV2, Xception)):
                _scale_reads(backbone)
        for part in backbones if only_rla else [model]:
            _fold_norms(part)
        for backbone in backbones:
            _deploy(backbone)
    for param in model.parameters():
        param.requires_grad_(False)
    return model


def rla_backbones(model: nn.Module) -> List[RLA]:
    """The backbones of a network that have a hidden state."""
    return [m for m in model.modules() if isinstance(m, RLA) and m.rla is not None]
