# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A 1x1 conv that widens, the norm after it, and C1 of that: in training by products.

The conv is a product, u = W z, and z has a fraction of u's channels. Whatever is linear
in u follows from z: the gradients through the norm, and C1 of the normalised u.
"""

from typing import Any, Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from .layers.attention import ChannelAttention

#: Pixels (of all images) for each channel of z from which on products of weights,
#: C1 W and W^T W, cost less than the passes over maps that they save.
_PIXELS_PER_CHANNEL = 32

#: Whether torch.compile traces what runs.
_is_compiling = (
    torch.compiler.is_compiling
    if hasattr(torch.compiler, 'is_compiling')
    else torch._utils.is_compiling
)


def _takes_device_types() -> bool:
    """Whether autocast is asked for by device type: from torch 2.4 on."""
    try:
        torch.is_autocast_enabled('cpu')  # type: ignore[call-arg]
    except TypeError:
        return False
    return True


_AUTOCAST_BY_DEVICE = _takes_device_types()


def _is_autocasting(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    if _AUTOCAST_BY_DEVICE:
        return torch.is_autocast_enabled(device.type)  # type: ignore[call-arg]
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


#: Hooks of all modules, as torch keeps them.
_GLOBAL_HOOKS: Tuple[Dict[int, Any], ...] = tuple(
    getattr(torch.nn.modules.module, f'_global_{kind}_hooks')
    for kind in ('forward', 'forward_pre', 'backward', 'backward_pre')
)


def is_watched(module: nn.Module) -> bool:
    """Whether anybody waits for a call of a module: hooks, or a forward of its own."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or (not _is_compiling() and 'forward' in module.__dict__)
        or any(_GLOBAL_HOOKS)
    )


def is_eager(x: Tensor) -> bool:
    """Whether x is computed now: by no compiler, tracer or transform of functions."""
    return (
        not _is_compiling()
        and type(x) is Tensor
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad.unpack_dual(x).tangent is None
    )


def is_plain_conv(conv: nn.Module) -> bool:
    """Whether a module is an ungrouped conv that nobody watches.

    Hooks wait for a call of the module: only without them may its weight be
    used by other means.
    """
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and not is_watched(conv)
    )


class _ConvNorm(torch.autograd.Function):
    """``y = norm(u)``, ``u = conv(z)``, and the norm's mean and 1/std; keeps z only.

    With xhat = (u - mean) / std over n pixels, the gradient of u is
    gamma / std * (grad_y - sum(grad_y) / n - xhat * sum(grad_y * xhat) / n). It is
    not computed: conv's gradients are products with z of grad_y, of 1 and of
    u = W z, the last with z's Gram matrix sum(z z^T); sum(grad_y * u) is the
    diagonal of sum(grad_y z^T) W^T. Means are taken off z, before products with W
    round.
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
        # Whatever autocast is on: sums of products are beyond half precision.
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
                # Through mean and 1/std: slope * (u - mean) + offset more for u.
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
    """Gradients of a 1x1 conv's input, (N, C, H, W), and of its weight, (C', C)."""
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
    """C1 of ``factor * (weight z + bias)``: a 1x1 conv of z of its own for each image.

    Args:
        compress: C1's weight, (k, C).
        factor: By how much attention scales, (N, C).
        weight: The weight of the conv before, (C, C').
        bias: Its bias, (C, ).
        z: What that conv reads, (N, C', H, W).

    Returns:
        (N, k, H, W), in the layout of z.
    """
    of_z = (compress * factor[:, None]) @ weight  # (N, k, C')
    offset = (factor * bias) @ compress.t()  # (N, k)
    if z.is_contiguous():
        update = (of_z @ z.flatten(2)).unflatten(2, z.shape[2:])
    else:
        pixels = z.permute(0, 2, 3, 1).flatten(1, 2) @ of_z.transpose(1, 2)
        update = pixels.unflatten(1, z.shape[2:]).permute(0, 3, 1, 2)
    return update + offset[:, :, None, None]


def may_be_kept() -> bool:
    """Whether autograd may keep what a conv reads; the same throughout a trace."""
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def _is_product(conv: nn.Module) -> bool:
    """Whether a module is a 1x1 conv without bias that nobody watches."""
    return (
        is_plain_conv(conv)
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.bias is None
    )


def is_tracking_norm(norm: nn.Module) -> bool:
    """Whether a module is a batch norm with affine and statistics, not watched."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.track_running_stats
        and norm.running_mean is not None
        and norm.running_var is not None
        and norm.momentum is not None
        and not is_watched(norm)
    )


def count_batch(norm: Any) -> None:
    """What nn.BatchNorm2d does in training before it normalises."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def _pays_off(conv: nn.Module, norm: nn.Module, z: Tensor) -> bool:
    """Whether :class:`_ConvNorm` can be used, and costs less than the modules."""
    return (
        torch.is_grad_enabled()
        # Before shapes are asked for, which graphs would record.
        and is_eager(z)
        and z.requires_grad
        and z.numel() >= _PIXELS_PER_CHANNEL * z.shape[1] ** 2
        and z.dtype in (torch.float32, torch.float64)
        and not _is_autocasting(z.device)
        and _is_product(conv)
        and conv.out_channels >= 2 * conv.in_channels
        and is_tracking_norm(norm)
    )


def _leaves_alone(attention: nn.Module) -> bool:
    """Whether a module is nn.Identity, not watched."""
    return type(attention) is nn.Identity and not is_watched(attention)


def _scales_many_pixels(attention: nn.Module, z: Tensor) -> bool:
    """Whether a conv of its own for each image, for its scales, costs less than C1."""
    return (
        isinstance(attention, ChannelAttention)
        and type(attention).forward is ChannelAttention.forward
        and not is_watched(attention)
        and z.shape[2] * z.shape[3] >= 4 * z.shape[1]
    )


def _apply(conv: Any, norm: Any, z: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """The norm of the conv, (N, C, H, W), and its mean and 1/std, (C, )."""
    count_batch(norm)
    return _ConvNorm.apply(
        z,
        conv.weight,
        norm.weight,
        norm.bias,
        (norm.running_mean, norm.running_var),
        norm.training,
        norm.momentum,
        norm.eps,
    )


def conv_norm(conv: nn.Module, norm: nn.Module, z: Tensor) -> Tensor:
    """``norm(conv(z))``, (N, C, H, W), which may be overwritten.

    Args:
        conv: A conv.
        norm: The norm after it.
        z: What the conv reads, (N, C', H, W).
    """
    return _apply(conv, norm, z)[0] if _pays_off(conv, norm, z) else norm(conv(z))


def end_of_branch(
    conv: Any,
    norm: Any,
    attention: nn.Module,
    compress: Any,
    z: Tensor,
) -> Tuple[Tensor, Optional[Tensor], bool]:
    """``y = attention(norm(conv(z)))`` and ``compress(y)``.

    Args:
        conv: The last conv of a residual branch.
        norm: The norm after it.
        attention: Attention after that, or nn.Identity.
        compress: C1, or None to leave it out.
        z: What the conv reads, (N, C', H, W).

    Returns:
        y, (N, C, H, W); C1(y), (N, k, H, W), or None; and whether autograd keeps
        y for C1: if not, it may be overwritten.
    """
    if compress is None:
        return attention(conv_norm(conv, norm, z)), None, False
    if not (
        _pays_off(conv, norm, z)
        and _is_product(compress)
        and (_leaves_alone(attention) or _scales_many_pixels(attention, z))
    ):
        y = attention(norm(conv(z)))
        return y, compress(y), may_be_kept()
    y, mean, invstd = _apply(conv, norm, z)
    # y = scale * conv(z) + shift, for each channel; C1(y) is a conv of z.
    scale = norm.weight * invstd
    shift = norm.bias - scale * mean
    w, c1 = conv.weight.flatten(1), compress.weight.flatten(1)
    if isinstance(attention, nn.Identity):
        of_z = ((c1 * scale) @ w)[:, :, None, None]
        return y, F.conv2d(z, of_z, c1 @ shift), False
    factor = attention.scale(y)
    update = _compress_scaled(c1, factor, scale[:, None] * w, shift, z)
    return y * factor[:, :, None, None], update, False
