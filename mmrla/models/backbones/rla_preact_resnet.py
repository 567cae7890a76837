# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-ResNet-110 and -164 for CIFAR (Tables 2, 7, 8 and 11 to 13), and DPN.

The main network is the pre-activated ResNet of He et al. 2016, "Identity
Mappings in Deep Residual Networks". What the paper leaves open is settled by
its parameter counts, where they tell, and else by its text:

- The residual unit F_t reads concat(x, h), so its first norm does too: the
  counts are the same to their printed digit with a norm over x alone.
- The projections of the identity read x only (k=16 and k=24 of Table 13 tell).
- ResNet-110 projects by 1x1 convs, not by zero padding (1.74M for CIFAR-100).
- No conv has a bias. All RLA rows agree with that; the plain ResNet-164, 1.70M
  in He et al. too, is 1.72M in Table 2, as biases would make it.
"""

from typing import Any, List, Optional, Sequence, Tuple

import torch
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_positive, check_range
from ..layers import build_attention
from ..rla import concat_hidden
from ..stage import RLABlock
from .base import AttentionCfg, RLABackbone, attention_of_stage


class PreActBlock(RLABlock):
    """Norm, ReLU and conv, as often as there are convs; all read concat(x, h).

    Args:
        in_channels (int): Channels C of x.
        hidden_channels (int): Channels k of h that are read; 0 for none.
        widths: Output channels of each conv; the last are the residual's.
        kernel_sizes: Kernel of each conv.
        stride (int): Stride of the first conv. Defaults to 1.
        identity_channels (int, optional): Channels of the projected identity;
            None for no projection.
        shared_activation (bool): Whether the identity, too, reads the first
            norm and ReLU, as it does in the network's first block and before a
            projection (He et al. 2016). Defaults to False.
        attention (dict, optional): Config of a module after the last conv.
        conv_cfg (dict, optional): Config of conv layers.
        norm_cfg (dict): Config of norm layers.
    """

    #: The residual branch ends in a conv: no norm that could start at zero.
    last_norm = None

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        widths: Sequence[int],
        kernel_sizes: Sequence[int],
        stride: int = 1,
        identity_channels: Optional[int] = None,
        shared_activation: bool = False,
        attention: Optional[dict] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__(widths[-1])
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.shared_activation = shared_activation
        self.num_convs = len(widths)
        channels = in_channels + hidden_channels
        for i, (width, kernel_size) in enumerate(zip(widths, kernel_sizes), 1):
            norm = build_norm_layer(norm_cfg, channels)[1]
            conv = build_conv_layer(
                conv_cfg,
                channels,
                width,
                kernel_size,
                # In the first conv, also where it is 1x1 (He et al. 2016).
                stride=stride if i == 1 else 1,
                padding=kernel_size // 2,
                bias=False,
            )
            self.add_module(f'bn{i}', norm)
            self.add_module(f'conv{i}', conv)
            channels = width
        self.attention = build_attention(attention, channels)
        self.downsample = (
            nn.Identity()
            if identity_channels is None
            else build_conv_layer(
                conv_cfg, in_channels, identity_channels, 1, stride=stride, bias=False
            )
        )
        self.relu = nn.ReLU(inplace=True)

    @property
    def reading_conv(self) -> nn.Module:
        """The first conv."""
        return self.conv1

    def branch(self, x: Tensor, h: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
        """The residual y and the (projected) identity, (N, C', H', W')."""
        # A zero h is not zero behind a norm: it cannot be left out here.
        y = self.bn1(concat_hidden(x, h, self.hidden_channels))
        y = activated = self.relu(y)
        for i in range(1, self.num_convs + 1):
            if i > 1:
                y = self.relu(getattr(self, f'bn{i}')(y))
            y = getattr(self, f'conv{i}')(y)
        if self.shared_activation:
            x = activated[:, : self.in_channels]
        return self.attention(y), self.downsample(x)


class DualPathBlock(PreActBlock):
    """A pre-activated block with a residual and a densely connected path.

    The first channels of x are the residual path, the others the dense path.
    The branch's first outputs are added to the one, its last ``dense_channels``
    appended to the other (Chen et al. 2017, "Dual Path Networks").

    Args:
        residual_channels (int): Channels of the residual path at the output.
        **kwargs: Arguments of :class:`PreActBlock`; ``widths`` ends in
            ``residual_channels`` plus the channels to append.
    """

    def __init__(self, *, residual_channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.residual_channels = residual_channels
        identity_channels = kwargs['identity_channels'] or kwargs['in_channels']
        self.out_channels += identity_channels - residual_channels

    def forward(
        self,
        x: Tensor,
        h: Optional[Tensor] = None,
        compress: Optional[nn.Module] = None,
        keep_residual: bool = True,
    ) -> Tuple[Tensor, Optional[Tensor], Tensor, Optional[Tensor]]:
        """The branch's outputs, identity, the block's output and C1 of the first."""
        y, identity = self.branch(x, h)
        y, update, _ = self.end(y, compress)
        r = self.residual_channels
        out = (identity[:, :r] + y[:, :r], identity[:, r:], y[:, r:])
        return y, identity, torch.cat(out, dim=1), update


@MODELS.register_module()
class RLAPreActResNet(RLABackbone):
    """Pre-activated ResNet for images of 32x32 with recurrent layer aggregation.

    A stem conv of 3x3 and three stages of as many blocks each, at strides 1, 2
    and 4. A norm and ReLU end the network; of the outputs only that of the
    last stage built has passed them.

    Args:
        depth (int): 6n + 2 with basic blocks (110 in the paper), 9n + 2 with
            bottlenecks (164), for n blocks a stage.
        rla_channels (int, optional): Channels k of the hidden state; 0 builds
            the plain ResNet. Defaults to the paper's: 12 with bottlenecks, 4
            with basic blocks.
        bottleneck (bool, optional): Whether blocks are 1x1, 3x3, 1x1 instead
            of two 3x3. By default they are from depth 164 on.
        attention: Config of a module after the last conv of each block, or a
            list of one for each stage. Defaults to None.
        extra_channels (int): Channels added to every output of a stage; the
            widths of bottlenecks get a quarter of them, so there it is a
            multiple of 4. "Channel +12" of Table 11 has 12. Defaults to 0.
        dense_channels (int): Channels that each block appends to a densely
            connected path, as in DPN; Table 11 has 12. Needs
            ``rla_channels=0``. Defaults to 0: no such path.
        in_channels (int): Channels of the images. Defaults to 3.
        base_channels (int): Channels of the stem and width of the first
            stage's blocks (doubled in each later one; times 4 at the outputs
            of bottlenecks). Defaults to 16.
        **kwargs: Arguments of :class:`RLABackbone`: integration, cell, shared,
            exchange, return_hidden, out_indices, frozen_stages, norm_eval,
            conv_cfg, norm_cfg, with_cp, init_cfg. ``zero_init_residual`` has no
            effect: the residual branches end in convs.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAPreActResNet
        >>> model = RLAPreActResNet(depth=164, return_hidden=True).eval()
        >>> for out in model(torch.rand(1, 3, 32, 32)):
        ...     print(tuple(out.shape))
        (1, 256, 8, 8)
        (1, 12, 8, 8)
    """

    strides = (1, 2, 2)

    def __init__(
        self,
        depth: int,
        rla_channels: Optional[int] = None,
        bottleneck: Optional[bool] = None,
        attention: AttentionCfg = None,
        extra_channels: int = 0,
        dense_channels: int = 0,
        in_channels: int = 3,
        base_channels: int = 16,
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
        if rla_channels is None:
            rla_channels = 12 if bottleneck else 4
        if dense_channels and rla_channels:
            raise ValueError(
                f'dense_channels={dense_channels} needs rla_channels=0, got '
                f'{rla_channels}'
            )
        if extra_channels < 0 or extra_channels % expansion:
            raise ValueError(
                f'extra_channels={extra_channels} is not a multiple of '
                f'{expansion}, 0 or more'
            )
        kwargs.setdefault('out_indices', (len(self.strides) - 1,))
        super().__init__(len(self.strides), rla_channels, **kwargs)
        self.depth = depth
        self.bottleneck = bottleneck
        self.conv1 = build_conv_layer(
            self.conv_cfg, in_channels, base_channels, 3, padding=1, bias=False
        )

        channels = base_channels
        for i in range(self.num_stages):
            width = base_channels * 2**i + extra_channels // expansion
            out_channels = width * expansion
            widths = [width] * (2 if bottleneck else 1)
            widths.append(out_channels + dense_channels)
            blocks: List[RLABlock] = []
            for t in range(num_blocks):
                stride = self.strides[i] if t == 0 else 1
                # The dense path starts with two times the channels (DPN).
                project = t == 0 and (stride > 1 or channels != out_channels)
                project = project or (t == 0 and dense_channels > 0)
                block_kwargs: dict = dict(
                    in_channels=channels,
                    hidden_channels=self.hidden_inputs,
                    widths=widths,
                    kernel_sizes=(1, 3, 1) if bottleneck else (3, 3),
                    stride=stride,
                    identity_channels=out_channels + 2 * dense_channels
                    if project
                    else None,
                    shared_activation=project or (i == 0 and t == 0),
                    attention=attention_of_stage(attention, i, len(self.strides)),
                    conv_cfg=self.conv_cfg,
                    norm_cfg=self.norm_cfg,
                )
                block = (
                    DualPathBlock(residual_channels=out_channels, **block_kwargs)
                    if dense_channels
                    else PreActBlock(**block_kwargs)
                )
                blocks.append(block)
                channels = block.out_channels
            self.add_stage(blocks, self.strides[i])
        self.norm = build_norm_layer(self.norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self._freeze_stages()

    def stem_modules(self) -> List[nn.Module]:
        """The stem's conv."""
        return [self.conv1]

    def forward_stem(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, base_channels, H, W)."""
        return self.conv1(x)

    def finish(self, x: Tensor) -> Tensor:
        """The last norm and ReLU."""
        return self.relu(self.norm(x))


def _blocks_of_depth(depth: int, bottleneck: bool) -> int:
    """Blocks in each of three stages.

    Raises:
        ValueError: If the depth is not that of a whole number of blocks.
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
