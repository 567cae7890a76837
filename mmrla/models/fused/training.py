# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Fused training form: a widening 1x1 conv, its norm and C1 as one autograd function.

The conv is a product, u = W z, where z has a fraction of u's channels. Everything that
is linear in u follows from z: the gradients through the norm, and C1 of the normalised
u. So the function keeps only z for the backward pass.
"""

from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..backbones.mobilenet_v2 import RLAOverMobileNetV2
from ..backbones.resnet import RLAOverResNet
from ..layers.attention import ChannelAttention
from ..layers.plugins import apply_plugins, plugin_names
from ..rla import RLA
from .deploy import is_product

#: Pixels, over all images, per channel of z: with fewer, the products of weights, C1 W
#: and W^T W, cost more than the passes over maps that they save.
_PIXELS_PER_CHANNEL = 32


class _ConvNorm(torch.autograd.Function):
    """``y = norm(u)`` of ``u = conv(z)``, with the norm's mean and 1/std; keeps only z.

    With xhat = (u - mean) / std over n pixels, the gradient of u is
    gamma / std * (grad_y - sum(grad_y) / n - xhat * sum(grad_y * xhat) / n). It is not
    computed. The gradients of the conv are products of z with grad_y, with 1 and with
    u = W z. The last one needs the Gram matrix sum(z z^T), and sum(grad_y * u) is the
    diagonal of sum(grad_y z^T) W^T. Means are subtracted from z, as products with W
    would round them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        statistics: Tuple[Tensor, Tensor],
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        y, mean, invstd = torch.native_batch_norm(
            F.conv2d(z, weight), gamma, beta, *statistics, training, momentum, eps
        )
        if not training:
            mean, invstd = statistics[0].clone(), torch.rsqrt(statistics[1] + eps)
            ctx.mark_non_differentiable(mean, invstd)
        ctx.training = training
        ctx.save_for_backward(z, weight, gamma, mean, invstd)
        return y, mean, invstd

    @staticmethod
    def backward(
        ctx: Any, grad_y: Tensor, grad_mean: Tensor, grad_invstd: Tensor
    ) -> Tuple[Optional[Tensor], ...]:
        z, weight, gamma, mean, invstd = ctx.saved_tensors
        # Without autocast: sums of products exceed half precision.
        with torch.autocast(z.device.type, enabled=False):
            w, scale = weight[:, :, 0, 0], gamma * invstd
            grad_z, product = _conv_backward(grad_y, z, w * scale[:, None])
            grad_beta = grad_y.sum((0, 2, 3))
            if not ctx.training:
                grad_gamma = ((product * w).sum(1) - mean * grad_beta) * invstd
                grad_w = product * scale[:, None]
            else:
                pixels = z.numel() // z.shape[1]
                z_mean = z.mean((0, 2, 3))
                product = product - grad_beta[:, None] * z_mean
                grad_gamma = (product * w).sum(1) * invstd
                # Through mean and 1/std u gets another slope * (u - mean) + offset.
                slope = -(scale * grad_gamma + grad_invstd * invstd**2)
                slope = (slope * invstd / pixels)[:, None]
                offset = (grad_mean - scale * grad_beta) / pixels
                gram = _conv_backward(z, z, w[: w.shape[1]], needs_input=False)[1]
                gram = gram - pixels * z_mean[:, None] * z_mean
                grad_w = product * scale[:, None] + grad_mean[:, None] * z_mean
                grad_w = grad_w + slope * (w @ gram)
                of_z = w.t() @ (slope * w)
                bias = w.t() @ offset - of_z @ z_mean
                grad_z = grad_z + F.conv2d(z, of_z[:, :, None, None], bias)
        grads = (grad_z, grad_w[:, :, None, None], grad_gamma, grad_beta)
        return (*grads, None, None, None, None)


def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs_input: bool = True
) -> Tuple[Tensor, Tensor]:
    """Gradients of the input, (N, C, H, W), and weight, (C', C), of a 1x1 conv."""
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight[:, :, None, None],
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [needs_input, True, False],
    )
    return grad_x, grad_weight[:, :, 0, 0]


def _compress_scaled(
    compress: Tensor, factor: Tensor, weight: Tensor, bias: Tensor, z: Tensor
) -> Tensor:
    """C1 of ``factor * (weight z + bias)``, as a 1x1 conv of z for each image.

    Args:
        compress: Weight of C1, (k, C).
        factor: Factors of the attention, (N, C).
        weight: Weight of the conv before the attention, (C, C').
        bias: Bias of that conv, (C, ).
        z: Input of that conv, (N, C', H, W).

    Returns:
        (N, k, H, W), in the memory format of z.
    """
    of_z = (compress * factor[:, None]) @ weight  # (N, k, C')
    offset = (factor * bias) @ compress.t()  # (N, k)
    if z.is_contiguous():
        update = (of_z @ z.flatten(2)).unflatten(2, z.shape[2:])
    else:
        pixels = z.permute(0, 2, 3, 1).flatten(1, 2) @ of_z.transpose(1, 2)
        update = pixels.unflatten(1, z.shape[2:]).permute(0, 3, 1, 2)
    return update + offset[:, :, None, None]


def _fits(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a 1x1 conv at least doubles channels, and a batch norm follows it."""
    return (
        is_product(conv)
        and conv.bias is None
        and conv.out_channels >= 2 * conv.in_channels
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
    )


def _pays_off(z: Tensor) -> bool:
    """Whether z needs a gradient and has enough pixels."""
    return (
        torch.is_grad_enabled()
        and z.requires_grad
        and z.numel() >= _PIXELS_PER_CHANNEL * z.shape[1] ** 2
    )


def _apply(conv: Any, norm: Any, z: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """norm(conv(z)), (N, C, H, W), and the norm's mean and 1/std, (C, ) each."""
    if norm.training:
        norm.num_batches_tracked.add_(1)
    statistics = norm.running_mean, norm.running_var
    how = norm.training, norm.momentum, norm.eps
    return _ConvNorm.apply(z, conv.weight, norm.weight, norm.bias, statistics, *how)


def conv_norm(conv: Any, norm: Any, z: Tensor) -> Tensor:
    """Compute ``norm(conv(z))``.

    Args:
        conv: A 1x1 conv with at least twice as many outputs as inputs.
        norm: The batch norm after it.
        z: Input of the conv, (N, C', H, W), float32 or float64.

    Returns:
        (N, C, H, W).
    """
    return _apply(conv, norm, z)[0] if _pays_off(z) else norm(conv(z))


def conv_norm_compress(
    conv: Any, norm: Any, attention: Optional[nn.Module], compress: Any, z: Tensor
) -> Tuple[Tensor, Tensor]:
    """Compute ``y = attention(norm(conv(z)))`` and ``compress(y)``.

    Args:
        conv: A 1x1 conv with at least twice as many outputs as inputs.
        norm: The batch norm after it.
        attention: The channel attention after the norm; None for none.
        compress: C1.
        z: Input of the conv, (N, C', H, W), float32 or float64.

    Returns:
        y, (N, C, H, W), and C1(y), (N, k, H, W).
    """
    y, mean, invstd = _apply(conv, norm, z)
    # norm(conv(z)) = scale * conv(z) + shift, so C1 of it is a conv of z.
    scale = norm.weight * invstd
    shift = norm.bias - scale * mean
    w, c1 = conv.weight.flatten(1), compress.weight.flatten(1)
    if attention is None:
        of_z = ((c1 * scale) @ w)[:, :, None, None]
        return y, F.conv2d(z, of_z, c1 @ shift)
    factor = attention.scale(y)
    update = _compress_scaled(c1, factor, scale[:, None] * w, shift, z)
    return y * factor[:, :, None, None], update


class _FusedResNet(RLAOverResNet):
    """Bottlenecks with one function for the last conv, its norm and (v1, v2) C1."""

    def end(self, block: nn.Module, y: Tensor) -> Tensor:
        """The last conv with its norm and plugins."""
        if not self._is_fused(block):
            return super().end(block, y)
        return apply_plugins(block, 3, conv_norm(block.conv3, block.norm3, y))

    def step(self, i: int, t: int, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:
        """As :meth:`mmrla.models.RLA.step`."""
        if self.rla is None:
            return super().step(i, t, x, h)
        block = self.block_of(i, t)
        unit, index = self.unit_of(i, t)
        attention = _attention(block)
        if (
            self.source != 'residual'
            or index >= unit.num_updates
            or not self._is_fused(block)
            or len(attention) > 1
            or not all(isinstance(m, ChannelAttention) for m in attention)
        ):
            return super().step(i, t, x, h)
        y = block.conv1(x)
        read = unit.read_of(index, h)
        z = self.middle(block, y if read is None else y + read)
        # With attention C1 is a conv per image, whose weights must cost less than C1.
        large = not attention or z.shape[2] * z.shape[3] >= 4 * z.shape[1]
        if not (_pays_off(z) and large):
            y = self.end(block, z)
            x = self.join(block, y, self.shortcut(block, x))
            return x, unit(index, y, h)
        y, update = conv_norm_compress(
            block.conv3,
            block.norm3,
            attention[0] if attention else None,
            unit.compress_of(index),
            z,
        )
        y = block.drop_path(y) if hasattr(block, 'drop_path') else y
        # In place, as y is not kept for gradients.
        y += self.shortcut(block, x)
        return block.relu(y), unit.advance(index, update, h)

    @staticmethod
    def _is_fused(block: nn.Module) -> bool:
        return hasattr(block, 'conv3') and _fits(block.conv3, block.norm3)


def _attention(block: nn.Module) -> List[nn.Module]:
    """The plugins after a block's last norm."""
    return [getattr(block, name) for name in plugin_names(block, 3)]


class _FusedMobileNetV2(RLAOverMobileNetV2):
    """Inverted residuals with one function for the expansion conv and its norm."""

    def expand(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Run the expansion or the depthwise conv, with norm and activation."""
        if not (conv.with_norm and _fits(conv.conv, conv.norm)):
            return conv(x)
        y = conv_norm(conv.conv, conv.norm, x)
        return conv.activate(y) if conv.with_activation else y


_FORMS = ((RLAOverResNet, _FusedResNet), (RLAOverMobileNetV2, _FusedMobileNetV2))


def switch_to_fused_training(model: nn.Module) -> int:
    """Switch the RLA backbones of a network to the fused training form, in place.

    Parameters stay the same, numbers too, up to rounding. It takes less memory: of the
    end of a bottleneck only the narrow map is kept. It needs eager float32, without
    autocast, ``torch.compile`` or export. Hooks on the last conv, its norm and C1 are
    not called. In a config use ``custom_hooks=[dict(type='FusedTrainingHook')]``.

    Args:
        model: A backbone, classifier or detector.

    Returns:
        The number of backbones that were switched. ResNets with bottlenecks and
        MobileNetV2 have a fused form; others stay as they are.
    """
    if is_model_wrapper(model):
        model = model.module
    count = 0
    for module in model.modules():
        if not isinstance(module, RLA):
            continue
        for family, form in _FORMS:
            if isinstance(module, family) and not isinstance(module, form):
                cls = type(module)
                # Only the class changes: weights and names stay.
                module.__class__ = type(f'Fused{cls.__name__}', (form, cls), {})
                count += 1
    return count
