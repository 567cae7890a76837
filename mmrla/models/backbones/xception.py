# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA-Xception for CIFAR (Tables 2 and 9): a thin Xception.

The cells of Table 9 are not known; the widths follow from the parameter counts (2.70M,
and 2.75M for CIFAR-100). The first three of Xception's five downsamplings (Chollet
2017) are left out, so that the middle and exit flow see maps of about the original
size. The last two separable convs of the exit flow count as blocks that read h: RLA
then adds 0.063M parameters (0.07M and 0.06M in Table 2), and 0.050M otherwise.
"""

from typing import Any, List, Optional, Sequence, Tuple

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checks import check_positive, check_range
from ..layers.plugins import add_plugins, apply_plugins
from ..rla import RLA
from .base import PlainBackbone, PlainBlock


def _separable(in_channels: int, out_channels: int, norm_cfg: dict) -> nn.Module:
    """Depthwise 3x3 and 1x1 conv with nothing in between (Chollet 2017), then norm."""
    return DepthwiseSeparableConvModule(
        in_channels,
        out_channels,
        3,
        padding=1,
        bias=False,
        norm_cfg=norm_cfg,
        act_cfg=None,
        dw_norm_cfg=None,
    )


def _apply(separable: nn.Module, x: Tensor, read: Optional[Tensor] = None) -> Tensor:
    """Run a separable conv; ``read`` is added to the output of its 1x1 conv."""
    pointwise = separable.pointwise_conv
    y = pointwise.conv(separable.depthwise_conv(x))
    return pointwise.norm(y if read is None else y + read)


def _read(separable: nn.Module, channels: int) -> List[nn.Module]:
    """A depthwise 3x3 and a 1x1 conv of h, like those of x."""
    out_channels = separable.pointwise_conv.conv.out_channels
    return [
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out_channels, 1, bias=False),
    ]


class XceptionBlock(PlainBlock):
    """ReLU and separable conv, repeated for each width, then average pooling.

    Args:
        in_channels (int): Channels C of x.
        widths: Output channels of each separable conv.
        stride (int): Stride of the pooling. Defaults to 1, no pooling.
        norm_cfg (dict): Config of norm layers. Defaults to BN.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        stride: int = 1,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.out_channels = out_channels = widths[-1]
        inputs = (in_channels, *widths[:-1])
        self.convs = nn.ModuleList(
            _separable(c, width, norm_cfg) for c, width in zip(inputs, widths)
        )
        # Rounds sizes up, as the strided projection of the identity does.
        self.pool = (
            nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
            if stride > 1
            else nn.Identity()
        )
        self.downsample = (
            ConvModule(
                in_channels,
                out_channels,
                1,
                stride=stride,
                norm_cfg=norm_cfg,
                act_cfg=None,
            )
            if stride > 1 or in_channels != out_channels
            else nn.Identity()
        )
        self.relu = nn.ReLU()

    @property
    def last_norm(self) -> nn.Module:
        """The last norm of the residual branch."""
        return self.convs[-1].pointwise_conv.norm

    def branch(self, x: Tensor, read: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """The residual and the (projected) identity, (N, C', H', W') each."""
        first, *others = self.convs
        y = _apply(first, self.relu(x), read)
        for conv in others:
            y = conv(self.relu(y))
        return apply_plugins(self, 3, self.pool(y)), self.downsample(x)

    @property
    def mixing_conv(self) -> nn.Module:
        """The 1x1 conv of the first separable conv."""
        return self.convs[0].pointwise_conv.conv

    def make_read(self, channels: int, norm_cfg: dict) -> nn.Module:
        """Build the read: ReLU and a separable conv of h."""
        return nn.Sequential(nn.ReLU(), *_read(self.convs[0], channels))


class SeparableBlock(PlainBlock):
    """A separable conv and ReLU, without an identity.

    Args:
        in_channels (int): Channels C of x.
        out_channels (int): Channels C' of the output.
        norm_cfg (dict): Config of norm layers. Defaults to BN.
    """

    #: None for ``zero_init_residual``: without an identity the output would be zero.
    last_norm = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.conv = _separable(in_channels, out_channels, norm_cfg)
        self.relu = nn.ReLU()

    def branch(self, x: Tensor, read: Optional[Tensor] = None) -> Tuple[Tensor, None]:
        """The output before ReLU, (N, C', H, W), and None for the identity."""
        return _apply(self.conv, x, read), None

    def join(self, y: Tensor, identity: Optional[Tensor]) -> Tensor:
        """ReLU of y, (N, C', H, W)."""
        return self.relu(y)

    @property
    def mixing_conv(self) -> nn.Module:
        """The 1x1 conv of the separable conv."""
        return self.conv.pointwise_conv.conv

    def make_read(self, channels: int, norm_cfg: dict) -> nn.Module:
        """Build the read: a separable conv of h."""
        return nn.Sequential(*_read(self.conv, channels))


class Xception(PlainBackbone):
    """Thin Xception for images of 32x32.

    It has three stages, at strides 1, 2 and 4: the first two blocks of the entry flow,
    its third block with the middle flow, and the exit flow.

    Args:
        plugins: Layers at the end of each residual branch, in the form that mmdet's
            ResNet takes; ``position`` is 'after_conv3'. Defaults to None.
        in_channels (int): Channels of the images. Defaults to 3.
        stem_channels: Channels of the two 3x3 convs of the stem. Defaults to (16, 32).
        entry_channels: Channels of the three blocks of the entry flow; the middle
            flow has as many as the third. Defaults to (64, 128, 256).
        num_middle_blocks (int): Number of blocks of the middle flow. Defaults to 8.
        exit_channels: Channels of the block and the two separable convs of the exit
            flow. Defaults to (512, 512, 512).
        zero_init_residual (bool): Whether the last norm of each residual branch
            starts at zero. Defaults to False.
        out_indices: Indices of the stages whose outputs are returned. Defaults to (2,).
        **kwargs: ``frozen_stages``, ``norm_eval``, ``norm_cfg``, ``with_cp``,
            ``init_cfg``, see :class:`PlainBackbone`.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.
    """

    strides = (1, 2, 2)

    def __init__(
        self,
        plugins: Optional[Sequence[dict]] = None,
        in_channels: int = 3,
        stem_channels: Sequence[int] = (16, 32),
        entry_channels: Sequence[int] = (64, 128, 256),
        num_middle_blocks: int = 8,
        exit_channels: Sequence[int] = (512, 512, 512),
        zero_init_residual: bool = False,
        out_indices: Sequence[int] = (2,),
        **kwargs: Any,
    ) -> None:
        check_positive('in_channels', in_channels)
        check_range('num_middle_blocks', num_middle_blocks, 0, 1024)
        for name, values, length in (
            ('stem_channels', stem_channels, 2),
            ('entry_channels', entry_channels, 3),
            ('exit_channels', exit_channels, 3),
        ):
            if len(values) != length:
                raise ValueError(f'{name}={tuple(values)!r} needs {length} entries')
            for value in values:
                check_positive(f'{name} entry', value)
        super().__init__(len(self.strides), out_indices, **kwargs)
        self.zero_init_residual = zero_init_residual
        first, second = stem_channels
        self.conv1 = ConvModule(
            in_channels, first, 3, padding=1, norm_cfg=self.norm_cfg
        )
        self.conv2 = ConvModule(first, second, 3, padding=1, norm_cfg=self.norm_cfg)
        middle = entry_channels[-1]
        # Output channels of the separable convs of each block, stage by stage.
        widths: Sequence[Sequence[Tuple[int, ...]]] = (
            [(c, c) for c in entry_channels[:2]],
            [(middle, middle), *[(middle,) * 3] * num_middle_blocks],
            [(middle, exit_channels[0])],
        )
        channels = second
        for i in range(self.num_stages):
            blocks: List[PlainBlock] = []
            for t, block_widths in enumerate(widths[i]):
                stride = self.strides[i] if t == 0 else 1
                block = XceptionBlock(channels, block_widths, stride, self.norm_cfg)
                blocks.append(block)
                channels = block.out_channels
            if i + 1 == len(self.strides):
                for width in exit_channels[1:]:
                    blocks.append(SeparableBlock(channels, width, self.norm_cfg))
                    channels = width
            self.add_layer(blocks)
        # Blocks without an identity have no residual branch.
        layers = [
            [b for b in getattr(self, name) if isinstance(b, XceptionBlock)]
            for name in self.res_layers
        ]
        add_plugins(layers, [[b.out_channels for b in la] for la in layers], plugins)
        self._freeze_stages()

    def init_weights(self) -> None:
        """Draw the weights; with ``zero_init_residual`` zero the last norms."""
        super().init_weights()
        for name in self.res_layers if self.zero_init_residual else ():
            for block in getattr(self, name):
                if block.last_norm is not None:
                    nn.init.zeros_(block.last_norm.weight)

    def stem_modules(self) -> List[nn.Module]:
        """The two convs of the stem with their norms."""
        return [self.conv1, self.conv2]

    def forward_stem(self, x: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) to (N, stem_channels[1], H, W)."""
        return self.conv2(self.conv1(x))


@MODELS.register_module()
class RLAXception(RLA, Xception):
    """:class:`Xception` with recurrent layer aggregation.

    Args:
        rla_channels (int): Channels k of the hidden state; 0 is the plain network.
            Defaults to 12.
        **kwargs: Arguments of :class:`Xception` and :class:`mmrla.models.RLA`. The
            separable convs of the exit flow have no identity, so ``integration`` is
            one of 'v1' to 'v4'.

    Example:
        >>> import torch
        >>> from mmrla.models import RLAXception
        >>> model = RLAXception(return_hidden=True).eval()
        >>> for out in model(torch.rand(1, 3, 32, 32)):
        ...     print(tuple(out.shape))
        (1, 512, 8, 8)
        (1, 12, 8, 8)
    """

    integrations = ('v1', 'v2', 'v3', 'v4')

    def __init__(self, rla_channels: int = 12, **kwargs: Any) -> None:
        super().__init__(rla_channels=rla_channels, **kwargs)
