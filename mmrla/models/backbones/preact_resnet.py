# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-ResNet-110 and -164 for CIFAR (Tables 2, 7, 8 and 11 to 13), and DPN.

The main network is the pre-activated ResNet of He et al. 2016, "Identity Mappings in
Deep Residual Networks". Where the paper leaves details open, they follow from its
parameter counts or, if these do not tell, from its text:

- The residual branch F_t reads concat(x, h), so its first norm does too. A norm of x
  alone would give the same counts in the printed digits.
- The projection of the identity reads x only (Table 13, k=16 and k=24).
- ResNet-110 projects the identity by 1x1 convs, not by zero padding (1.74M parameters
  for CIFAR-100).
- No conv has a bias, which agrees with all RLA rows. The plain ResNet-164 has 1.70M
  here and in He et al., but 1.72M in Table 2, as if it had biases.
"""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_positive, check_range
from ..layers.plugins import add_plugins, apply_plugins
from ..rla import RLA
from .base import PlainBackbone, PlainBlock


class PreActBlock(PlainBlock):
    """A pre-activated block: norm, ReLU and conv, repeated for each conv.

    Args:
        in_channels (int): Channels C of x.
        widths: Output channels of each conv; the last one's are the residual's.
        kernel_sizes: Kernel size of each conv.
        stride (int): Stride of the first conv. Defaults to 1.
        identity_channels (int, optional): Channels of the projected identity.
            Defaults to None, no projection.
        shared_activation (bool): Whether the identity comes after the first norm and
            ReLU, as in the first block of the network and before a projection (He et
            al. 2016). Defaults to False.
        norm_cfg (dict): Config of norm layers. Defaults to BN.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        kernel_sizes: Sequence[int],
        stride: int = 1,
        identity_channels: Optional[int] = None,
        shared_activation: bool = False,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.out_channels = self.residual_channels = widths[-1]
        self.shared_activation = shared_activation
        self.num_convs = len(widths)
        channels = in_channels
        for i, (width, kernel_size) in enumerate(zip(widths, kernel_sizes), 1):
            self.add_module(f'bn{i}', build_norm_layer(norm_cfg, channels)[1])
            conv = nn.Conv2d(
                channels,
                width,
                kernel_size,
                # In the first conv even if that is 1x1 (He et al. 2016).
                stride=stride if i == 1 else 1,
                padding=kernel_size // 2,
                bias=False,
            )
            self.add_module(f'conv{i}', conv)
            channels = width
        self.downsample = (
            nn.Identity()
            if identity_channels is None
            else nn.Conv2d(in_channels, identity_channels, 1, stride, bias=False)
        )
        self.relu = nn.ReLU(inplace=True)

    def branch(self, x: Tensor, read: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """The residual and the (projected) identity, (N, C', H', W') each."""
        activated = self.relu(self.bn1(x))
        y = self.conv1(activated)
        if read is not None:
            y = y + read
        for i in range(2, self.num_convs + 1):
            y = self.relu(getattr(self, f'bn{i}')(y))
            y = getattr(self, f'conv{i}')(y)
        y = apply_plugins(self, 3, y)
        return y, self.downsample(activated if self.shared_activation else x)

    @property
    def mixing_conv(self) -> nn.Module:
        """The first conv, ``conv1``."""
        return self.conv1

    def make_read(self, channels: int, norm_cfg: dict) -> nn.Module:
        """Build the read: norm, ReLU and a conv of h like ``conv1``."""
        conv = nn.Conv2d(
            channels,
            self.conv1.out_channels,
            self.conv1.kernel_size,
            self.conv1.stride,
            self.conv1.padding,
            bias=False,
        )
        norm = build_norm_layer(norm_cfg, channels)[1]
        return nn.Sequential(norm, nn.ReLU(inplace=True), conv)


class DualPathBlock(PreActBlock):
    """A block with a residual path and a densely connected path.

    The first channels of x are the residual path, the others the dense path. Of the
    branch's outputs the first are added to the residual path, the others appended to
    the dense path (Chen et al. 2017, "Dual Path Networks").

    Args:
        path_channels (int): Channels of the residual path.
        **kwargs: Arguments of :class:`PreActBlock`; the last of ``widths`` is
            ``path_channels`` plus the number of channels to append.
    """

    def __init__(self, *, path_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path_channels = path_channels
        identity_channels = kwargs['identity_channels'] or kwargs['in_channels']
        self.out_channels += identity_channels - path_channels

    def join(self, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """The sum of the residual paths, followed by the dense paths."""
        assert identity is not None  # every block has one
        r = self.path_channels
        out = (identity[:, :r] + y[:, :r], identity[:, r:], y[:, r:])
        return torch.cat(out, dim=1)


class PreActResNet(PlainBackbone):
    """Pre-activated ResNet for images of 32x32 (He et al. 2016).

    A 3x3 stem conv and three stages with equal numbers of blocks, at strides 1, 2 and
    4. A norm and ReLU follow the last stage, and only its output has passed them.

    Args:
        depth (int): With n blocks per stage, 6n + 2 for basic blocks (110 in the
            paper), 9n + 2 for bottlenecks (164).
        bottleneck (bool, optional): Whether blocks are bottlenecks (1x1, 3x3, 1x1)
            instead of basic blocks (two 3x3). Defaults to None: from depth 164 on.
        plugins: Layers after the last conv of each block, in the form that mmdet's
            ResNet takes; ``position`` is 'after_conv3'. Defaults to None.
        extra_channels (int): Channels added to the outputs of each stage, and a
            quarter of them to the width of its bottlenecks. "Channel +12" of
            Table 11 has 12. Defaults to 0.
        dense_channels (int): Channels that each block appends to a densely connected
            path, as in DPN (12 in Table 11). Defaults to 0, no such path.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Channels of the stem and width of the blocks of the first
            stage. Each later stage doubles it; outputs of bottlenecks have 4 times
            their width. Defaults to 16.
        out_indices: Indices of the stages whose outputs are returned. Defaults to (2,).
        **kwargs: ``frozen_stages``, ``norm_eval``, ``norm_cfg``, ``with_cp``,
            ``init_cfg``, see :class:`PlainBackbone`.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.
    """

    strides = (1, 2, 2)

    def __init__(
        self,
        depth: int,
        bottleneck: Optional[bool] = None,
        plugins: Optional[Sequence[dict]] = None,
        extra_channels: int = 0,
        dense_channels: int = 0,
        in_channels: int = 3,
        base_channels: int = 16,
        out_indices: Sequence[int] = (2,),
        **kwargs: Any,
    ) -> None:
        check_positive('depth', depth)
        check_positive('in_channels', in_channels)
        check_positive('base_channels', base_channels)
        check_range('dense_channels', dense_channels, 0, 4096)
        if bottleneck is None:
            bottleneck = depth >= 164
        expansion = 4 if bottleneck else 1
        num_blocks = _blocks_of_depth(depth, bottleneck)
        if extra_channels < 0 or extra_channels % expansion:
            raise ValueError(
                f'extra_channels={extra_channels} is not a multiple of '
                f'{expansion}, 0 or more'
            )
        super().__init__(len(self.strides), out_indices, **kwargs)
        self.depth = depth
        self.conv1 = nn.Conv2d(in_channels, base_channels, 3, padding=1, bias=False)

        channels = base_channels
        for i in range(self.num_stages):
            width = base_channels * 2**i + extra_channels // expansion
            out_channels = width * expansion
            widths = [width] * (2 if bottleneck else 1)
            widths.append(out_channels + dense_channels)
            blocks: List[PreActBlock] = []
            for t in range(num_blocks):
                stride = self.strides[i] if t == 0 else 1
                # The dense path starts with twice the channels (DPN).
                project = t == 0 and (stride > 1 or channels != out_channels)
                project = project or (t == 0 and dense_channels > 0)
                identity_channels = out_channels + 2 * dense_channels
                block_kwargs: dict = dict(
                    in_channels=channels,
                    widths=widths,
                    kernel_sizes=(1, 3, 1) if bottleneck else (3, 3),
                    stride=stride,
                    identity_channels=identity_channels if project else None,
                    shared_activation=project or (i == 0 and t == 0),
                    norm_cfg=self.norm_cfg,
                )
                blocks.append(
                    DualPathBlock(path_channels=out_channels, **block_kwargs)
                    if dense_channels
                    else PreActBlock(**block_kwargs)
                )
                channels = blocks[-1].out_channels
            self.add_layer(blocks)
        layers = [getattr(self, name) for name in self.res_layers]
        add_plugins(
            layers, [[b.residual_channels for b in layer] for layer in layers], plugins
        )
        self.norm = build_norm_layer(self.norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self._freeze_stages()

    def stem_modules(self) -> List[nn.Module]:
        """The stem conv."""
        return [self.conv1]

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to (N, base_channels, H, W)."""
        return self.conv1(x)


@MODELS.register_module()
class RLAPreActResNet(RLA, PreActResNet):
    """:class:`PreActResNet` with recurrent layer aggregation.

    Args:
        depth (int): As in :class:`PreActResNet`.
        rla_channels (int, optional): Channels k of the hidden state; 0 is the plain
            network. Defaults to None, the paper's: 12 with bottlenecks, 4 with basic
            blocks.
        **kwargs: Arguments of :class:`PreActResNet` (``dense_channels`` only with
            ``rla_channels=0``) and of :class:`mmrla.models.RLA`.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAPreActResNet
        >>> model = RLAPreActResNet(depth=164, return_hidden=True).eval()
        >>> for out in model(torch.rand(1, 3, 32, 32)):
        ...     print(tuple(out.shape))
        (1, 256, 8, 8)
        (1, 12, 8, 8)
    """

    def __init__(
        self, depth: int, rla_channels: Optional[int] = None, **kwargs: Any
    ) -> None:
        if rla_channels is None:
            bottleneck = kwargs.get('bottleneck')
            if bottleneck is None:
                bottleneck = isinstance(depth, int) and depth >= 164
            rla_channels = 12 if bottleneck else 4
        if kwargs.get('dense_channels') and rla_channels:
            raise ValueError(
                f'dense_channels={kwargs["dense_channels"]} needs rla_channels=0, got '
                f'{rla_channels}'
            )
        super().__init__(depth, rla_channels=rla_channels, **kwargs)

    def zero_state(self, x: Tensor) -> Tensor:
        """h_0 as a map, (N, k, H, W), as the read's norm does not keep it zero."""
        return x.new_zeros(x.shape[0], self.state_channels, x.shape[2], x.shape[3])

    def finish(self, x: Tensor) -> Tensor:
        """Norm and ReLU of the last stage's output, (N, C, H, W)."""
        return self.relu(self.norm(x))


def _blocks_of_depth(depth: int, bottleneck: bool) -> int:
    """Number of blocks in each of the three stages.

    Raises:
        ValueError: If no whole number of blocks gives this depth.
    """
    step = 9 if bottleneck else 6
    if depth <= 2 or (depth - 2) % step:
        basic, deep = '6n + 2 (20, 32, 56, 110)', '9n + 2 (29, 47, 164, 1001)'
        raise ValueError(
            f'depth={depth} is not {deep if bottleneck else basic}, as '
            f'bottleneck={bottleneck} needs; bottleneck={not bottleneck} takes '
            f'{basic if bottleneck else deep}'
        )
    return (depth - 2) // step
