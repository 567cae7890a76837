# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""C1 of the residual, without keeping the residual for the backward pass.

The norm or attention before C1 keeps what it reads; the gradient of C1's weight
follows from that.
"""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers.attention import ChannelAttention

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


def is_plain_conv(conv: nn.Module) -> bool:
    """Whether a module is an ungrouped conv that nobody watches.

    Hooks wait for a call of the module: only without them may its weight be
    used by other means.
    """
    return (
        type(conv) is nn.Conv2d
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and not conv._forward_pre_hooks
        and not conv._forward_hooks
    )


def _gradient_of_compressed(
    grad_y: Optional[Tensor],
    grad_update: Optional[Tensor],
    kept: Tensor,
    weight: Tensor,
    needs_weight: bool,
) -> Tuple[Optional[Tensor], Optional[Tensor]]:
    """Gradients of y, which C1 and the addition read, and of ``conv(kept)``'s weight.

    In one place, as autograd would make a map of its own for the sum.
    """
    if grad_update is None:
        return grad_y, None
    grad, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad_update,
        kept,
        weight,
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, needs_weight, False],
    )
    return grad if grad_y is None else grad.add_(grad_y), grad_weight


class _NormAndCompress(torch.autograd.Function):
    """``y = (u - mean) * invstd * gamma + beta`` and ``conv(y)``; keeps u only.

    The weight's gradient, a product of the output's gradient and y, is linear in y:
    it follows from the product with u.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        gamma: Tensor,
        beta: Tensor,
        weight: Tensor,
        statistics: Tuple[Tensor, Tensor],
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.training, ctx.eps = training, eps
        y, mean, invstd = torch.native_batch_norm(
            u, gamma, beta, *statistics, training, momentum, eps
        )
        if not training:
            mean, invstd = statistics[0], torch.rsqrt(statistics[1] + eps)
        ctx.save_for_backward(u, gamma, beta, weight, mean, invstd, *statistics)
        return y, F.conv2d(y, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_y: Optional[Tensor], grad_update: Optional[Tensor]
    ) -> Tuple[Optional[Tensor], ...]:
        u, gamma, beta, weight, mean, invstd, *statistics = ctx.saved_tensors
        grad, grad_weight = _gradient_of_compressed(
            grad_y, grad_update, u, weight, ctx.needs_input_grad[3]
        )
        if grad is None:
            return (None,) * 8
        if grad_weight is not None and grad_update is not None:
            total = grad_update.sum((0, 2, 3))
            product = grad_weight.flatten(1) - total.outer(mean)
            product = product * (invstd * gamma) + total.outer(beta)
            grad_weight = product.view_as(weight)
        grads = torch.ops.aten.native_batch_norm_backward(
            grad,
            u,
            gamma,
            *statistics,
            mean,
            invstd,
            ctx.training,
            ctx.eps,
            ctx.needs_input_grad[:3],
        )
        return (*grads, grad_weight, None, None, None, None)


class _ScaleAndCompress(torch.autograd.Function):
    """``y = n * scale``, scale (N, C), and ``conv(y)``; keeps n only."""

    @staticmethod
    def forward(
        ctx: Any, n: Tensor, scale: Tensor, weight: Tensor
    ) -> Tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(n, scale, weight)
        y = n * scale[:, :, None, None]
        return y, F.conv2d(y, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_y: Optional[Tensor], grad_update: Optional[Tensor]
    ) -> Tuple[Optional[Tensor], ...]:
        n, scale, weight = ctx.saved_tensors
        grad, _ = _gradient_of_compressed(grad_y, grad_update, n, weight, False)
        grad_n = grad_scale = grad_weight = None
        if grad_update is not None and ctx.needs_input_grad[2]:
            product = grad_update.flatten(2) @ n.flatten(2).transpose(1, 2)  # (N, k, C)
            grad_weight = (product * scale[:, None]).sum(0).view_as(weight)
        if grad is not None:
            grad_scale = (grad * n).sum((2, 3))
            grad_n = grad * scale[:, :, None, None]
        return grad_n, grad_scale, grad_weight


def may_be_kept() -> bool:
    """Whether autograd may keep what a conv reads; the same throughout a trace."""
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def _calls_for_modules(module: nn.Module, compress: nn.Module, x: Tensor) -> bool:
    """Whether the modules are to be called, whatever autograd keeps."""
    return (
        _is_compiling()
        or torch.jit.is_tracing()
        or _is_autocasting(x.device)
        or bool(module._forward_hooks or module._forward_pre_hooks)
        or not is_plain_conv(compress)
        or compress.bias is not None
    )


def norm_and_compress(
    norm: nn.Module, compress: nn.Module, u: Tensor
) -> Tuple[Tensor, Tensor, bool]:
    """``y = norm(u)``, ``compress(y)``, and whether y is kept for the latter.

    Args:
        norm: The norm that ends a residual branch.
        compress: C1.
        u: What the norm reads, (N, C, H, W).

    Returns:
        y, (N, C, H, W); C1(y), (N, k, H, W); False if y may be overwritten.
    """
    needs_gradient = torch.is_grad_enabled() and u.requires_grad
    if (
        not needs_gradient
        or _calls_for_modules(norm, compress, u)
        or type(norm) is not nn.BatchNorm2d
        or not norm.affine
        or norm.running_mean is None
        or norm.running_var is None
        or norm.momentum is None
    ):
        y = norm(u)
        return y, compress(y), may_be_kept()
    # What nn.BatchNorm2d does, with its statistics.
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    y, update = _NormAndCompress.apply(
        u,
        norm.weight,
        norm.bias,
        compress.weight,
        (norm.running_mean, norm.running_var),
        norm.training,
        norm.momentum,
        norm.eps,
    )
    return y, update, False


def scale_and_compress(
    attention: ChannelAttention, compress: nn.Module, n: Tensor
) -> Tuple[Tensor, Tensor, bool]:
    """``y = attention(n)``, ``compress(y)``, and whether y is kept for the latter.

    Args:
        attention: The attention that ends a residual branch.
        compress: C1.
        n: What it reads, (N, C, H, W).

    Returns:
        As :func:`norm_and_compress`.
    """
    needs_gradient = torch.is_grad_enabled() and n.requires_grad
    if not needs_gradient or _calls_for_modules(attention, compress, n):
        y = attention(n)
        return y, compress(y), may_be_kept()
    y, update = _ScaleAndCompress.apply(n, attention.scale(n), compress.weight)
    return y, update, False
