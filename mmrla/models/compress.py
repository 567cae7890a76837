# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""C1 of the residual, without keeping the residual for the backward pass.

The norm or attention before C1 keeps what it reads; the gradient of C1's weight
follows from that.
"""

from typing import Any, Tuple

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


class _CompressNormed(torch.autograd.Function):
    """``conv(y)``, y = (u - mean) * invstd * gamma + beta; keeps u instead of y.

    The norm keeps u anyway. The weight's gradient, a product of the output's
    gradient and y, is linear in y: it follows from the product with u.
    """

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        weight: Tensor,
        u: Tensor,
        mean: Tensor,
        invstd: Tensor,
        gamma: Tensor,
        beta: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(weight, u, mean, invstd, gamma, beta)
        return F.conv2d(y, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        weight, u, mean, invstd, gamma, beta = ctx.saved_tensors
        needs = [*ctx.needs_input_grad[:2], False]
        grad_y, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, u, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, needs
        )
        if grad_weight is not None:
            total = grad.sum((0, 2, 3))
            product = grad_weight.flatten(1) - total.outer(mean)
            product = product * (invstd * gamma) + total.outer(beta)
            grad_weight = product.view_as(weight)
        return grad_y, grad_weight, None, None, None, None, None


class _CompressScaled(torch.autograd.Function):
    """``conv(y)``, y = n * scale, scale (N, C); keeps n, as the product does."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, weight: Tensor, n: Tensor, scale: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, n, scale)
        return F.conv2d(y, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        weight, n, scale = ctx.saved_tensors
        needs = [ctx.needs_input_grad[0], False, False]
        grad_y = torch.ops.aten.convolution_backward(
            grad, n, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, needs
        )[0]
        grad_weight = None
        if ctx.needs_input_grad[1]:
            product = grad.flatten(2) @ n.flatten(2).transpose(1, 2)  # (N, k, C)
            grad_weight = (product * scale[:, None]).sum(0).view_as(weight)
        return grad_y, grad_weight, None, None


def may_be_kept() -> bool:
    """Whether autograd may keep what a conv reads; the same throughout a trace."""
    return torch.is_grad_enabled() or torch.jit.is_tracing()


def _calls_for_modules(module: nn.Module, compress: nn.Module) -> bool:
    """Whether the modules are to be called, whatever autograd keeps."""
    return (
        _is_compiling()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled()
        or torch.is_autocast_cpu_enabled()
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
        or _calls_for_modules(norm, compress)
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
    y, mean, invstd = torch.native_batch_norm(
        u,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.training,
        norm.momentum,
        norm.eps,
    )
    if not norm.training:
        mean, invstd = norm.running_mean, torch.rsqrt(norm.running_var + norm.eps)
    update = _CompressNormed.apply(
        y, compress.weight, u.detach(), mean, invstd, norm.weight, norm.bias
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
    if not needs_gradient or _calls_for_modules(attention, compress):
        y = attention(n)
        return y, compress(y), may_be_kept()
    scale = attention.scale(n)
    y = n * scale[:, :, None, None]
    update = _CompressScaled.apply(y, compress.weight, n.detach(), scale.detach())
    return y, update, False
