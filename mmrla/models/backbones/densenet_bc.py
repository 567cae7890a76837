# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""DenseNet-BC for CIFAR and its two simplifications (Table 1, Eq. 9 and 10).

mmpretrain's DenseNet is the one for ImageNet: its stem has stride 4.

For CIFAR-10 the plain network has 769,162 parameters, those with shared convs
587,722. Table 1's 0.80M and 0.60M are these to one digit, as Huang et al. give it
(0.8M); no reading of the text leads to the second digit.
"""

from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..checks import check_choice, check_positive
from ..rla import INIT_CFG
from ..wiring import WiringRecord

SHARINGS = (None, 'lag', 'ordinal')


class SharedConv(WiringRecord):
    """The 1x1 convs that the layers of a dense block share (Figure 5).

    Layer t reads x_1 ... x_{t-1} with the weights of the lags t-1 ... 1, or of
    the ordinals 1 ... t-1. Both are kept in the order in which the features
    are concatenated, so a layer's weight is a view: of the last input channels
    for 'lag', of the first for 'ordinal'.

    Args:
        sharing (str): 'lag' (Eq. 9) or 'ordinal' (Eq. 10).
        num_inputs (int): Number of lags, or ordinals.
        growth_rate (int): Channels of each of x_1, x_2, ...
        out_channels (int): Output channels.
    """

    def __init__(
        self, sharing: str, num_inputs: int, growth_rate: int, out_channels: int
    ) -> None:
        super().__init__(f'sharing={sharing!r}', 'build the backbone with {found}')
        self.sharing = sharing
        self.growth_rate = growth_rate
        self.conv = nn.Conv2d(num_inputs * growth_rate, out_channels, 1, bias=False)

    def weight(self, num_inputs: int) -> Tensor:
        """The weight that reads x_1 ... x_{num_inputs}, (out, inputs, 1, 1)."""
        channels = num_inputs * self.growth_rate
        start = 0
        if self.sharing == 'lag':
            start = self.conv.in_channels - channels
        return self.conv.weight[:, start : start + channels]

    def norms(self, p: float = 1.0) -> Tensor:
        """p-norms of the weights of lag, or ordinal, 1, 2, ..., of shape (n,)."""
        weight = self.conv.weight.detach()[:, :, 0, 0]
        norms = torch.stack(
            [part.norm(p) for part in weight.split(self.growth_rate, dim=1)]
        )
        return norms.flip(0) if self.sharing == 'lag' else norms


class DenseLayer(BaseModule):
    """Norm, ReLU, 1x1 conv, norm, ReLU, 3x3 conv of all features before.

    Args:
        in_channels (int): Channels of the features together.
        own_channels (int): Channels, the first ones, that the layer's own 1x1
            conv reads; a shared conv reads the others.
        growth_rate (int): Channels of the output.
        width (int): Channels between the convs.
        norm_cfg (dict): Config of norm layers.
    """

    def __init__(
        self,
        in_channels: int,
        own_channels: int,
        growth_rate: int,
        width: int,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.norm1 = build_norm_layer(norm_cfg, in_channels)[1]
        self.conv1 = nn.Conv2d(own_channels, width, 1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, width)[1]
        self.conv2 = nn.Conv2d(width, growth_rate, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def squeeze(self, shared: Optional[Tensor], *features: Tensor) -> Tensor:
        """The 1x1 conv's output, (N, width, H, W).

        Args:
            shared: The shared conv's weight for the last features, if any.
            *features: The features, (N, C_i, H, W) each.
        """
        x = self.relu(self.norm1(torch.cat(features, dim=1)))
        if shared is None:
            return self.conv1(x)
        # The sum of both convs is one conv; the weights are small.
        return F.conv2d(x, torch.cat((self.conv1.weight, shared), dim=1))

    def expand(self, x: Tensor) -> Tensor:
        """The 3x3 conv of the squeezed features, (N, growth_rate, H, W)."""
        return self.conv2(self.relu(self.norm2(x)))


class DenseBlock(BaseModule):
    """Layers that each read the block's input and all layers before.

    Args:
        num_layers (int): Number of layers.
        in_channels (int): Channels of the block's input x_0.
        growth_rate (int): Channels of each layer's output.
        width (int): Channels between a layer's convs.
        sharing (str, optional): What 1x1 convs, but for those that read x_0,
            are shared by: 'lag', 'ordinal' or None.
        norm_cfg (dict): Config of norm layers.
        with_cp (bool): Recompute norms and 1x1 convs in the backward pass.
    """

    def __init__(
        self,
        num_layers: int,
        in_channels: int,
        growth_rate: int,
        width: int,
        sharing: Optional[str],
        norm_cfg: dict,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.out_channels = in_channels + num_layers * growth_rate
        self.layers = ModuleList()
        for t in range(num_layers):
            channels = in_channels + t * growth_rate
            own = in_channels if sharing else channels
            self.layers.append(DenseLayer(channels, own, growth_rate, width, norm_cfg))
        self.shared: Optional[SharedConv] = None
        if sharing and num_layers > 1:
            self.shared = SharedConv(sharing, num_layers - 1, growth_rate, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        features = [x]
        for t, layer in enumerate(self.layers):
            shared = self.shared.weight(t) if self.shared is not None and t else None
            if self.with_cp and torch.is_grad_enabled():
                y = checkpoint(layer.squeeze, shared, *features, use_reentrant=False)
            else:
                y = layer.squeeze(shared, *features)
            features.append(layer.expand(y))
        return torch.cat(features, dim=1)


class Transition(BaseModule):
    """Norm, ReLU, 1x1 conv and average pooling between dense blocks.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        norm_cfg (dict): Config of norm layers.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H // 2, W // 2)."""
        # Pooling before the linear conv is the same with a quarter of the work.
        return self.conv(self.pool(self.relu(self.norm(x))))


@MODELS.register_module()
class DenseNetBC(BaseModule):
    """DenseNet-BC for images of 32x32, plain or with shared 1x1 convs.

    A stem conv of 3x3 and three dense blocks at strides 1, 2 and 4 (Huang et
    al. 2017). A norm and ReLU end the network.

    Args:
        depth (int): 6n + 4 for n layers in each block. Defaults to 100.
        growth_rate (int): Channels of each layer's output. Defaults to 12.
        sharing (str, optional): Which 1x1 convs of a block are one: those of
            the same 'lag' (Eq. 9), of the same 'ordinal' (Eq. 10), or None,
            the plain DenseNet. The part that reads the block's input is each
            layer's own.
        compression (float): Channels that a transition keeps, above 0 and at
            most 1. Defaults to 0.5.
        in_channels (int): Channels of the images. Defaults to 3.
        out_indices: Blocks (from 0) whose outputs are returned; the last
            block's has passed the last norm and ReLU. Defaults to (2,).
        norm_cfg (dict): Config of norm layers. Defaults to BN.
        with_cp (bool): Recompute the layers' norms and 1x1 convs in the
            backward pass to save memory.
        init_cfg: Initialisation; He normal, fan-out, by default.

    Raises:
        ValueError: For an argument out of range; the message has the allowed
            values.

    Example:
        >>> import torch
        >>> from mmrla.models import DenseNetBC
        >>> model = DenseNetBC(sharing='lag').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 32, 32))]
        [(1, 342, 8, 8)]
    """

    num_stages = 3
    #: Width of the 1x1 convs in units of the growth rate (the B of BC).
    bottleneck_ratio = 4

    def __init__(
        self,
        depth: int = 100,
        growth_rate: int = 12,
        sharing: Optional[str] = None,
        compression: float = 0.5,
        in_channels: int = 3,
        out_indices: Sequence[int] = (2,),
        norm_cfg: dict = dict(type='BN'),
        with_cp: bool = False,
        init_cfg: Union[None, dict, List[dict]] = None,
    ) -> None:
        super().__init__(INIT_CFG if init_cfg is None else init_cfg)
        check_positive('depth', depth)
        check_positive('growth_rate', growth_rate)
        check_positive('in_channels', in_channels)
        check_choice('sharing', sharing, SHARINGS)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'depth={depth} is not 6n + 4 (40, 100, 190, 250)')
        if not 0 < compression <= 1:
            raise ValueError(f'compression={compression} is not above 0 and at most 1')
        indices = tuple(out_indices)
        if not indices or any(i not in range(self.num_stages) for i in indices):
            raise ValueError(f'out_indices={indices!r} must be indices from 0 to 2')
        self.depth = depth
        self.sharing = sharing
        self.out_indices = indices

        channels = 2 * growth_rate
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.stages = ModuleList()
        self.transitions = ModuleList()
        for i in range(max(indices) + 1):
            if i > 0:
                compressed = int(channels * compression)
                self.transitions.append(Transition(channels, compressed, norm_cfg))
                channels = compressed
            stage = DenseBlock(
                (depth - 4) // 6,
                channels,
                growth_rate,
                self.bottleneck_ratio * growth_rate,
                sharing,
                norm_cfg,
                with_cp,
            )
            self.stages.append(stage)
            channels = stage.out_channels
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)

    @property
    def out_channels(self) -> Tuple[int, ...]:
        """Channels of the outputs at ``out_indices``."""
        return tuple(self.stages[i].out_channels for i in self.out_indices)

    def shared_weight_norms(self, p: float = 1.0) -> List[Tensor]:
        """Norms of the shared 1x1 convs, the curves of Figure 2.

        Args:
            p (float): The order of the norm. Defaults to 1.

        Returns:
            For each dense block a tensor with the norm for lag, or ordinal,
            1, 2, ..., in this order.

        Raises:
            ValueError: If the network shares no convs.
        """
        if any(stage.shared is None for stage in self.stages):
            raise ValueError(
                f'sharing={self.sharing!r}, depth={self.depth}: no 1x1 conv is '
                "shared; sharing='lag' or 'ordinal' from depth 16 on does"
            )
        return [stage.shared.norms(p) for stage in self.stages]

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) to the outputs at ``out_indices``."""
        x = self.conv1(x)
        outs = []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.transitions[i - 1](x)
            x = stage(x)
            if i + 1 == len(self.stages):
                x = self.relu(self.norm(x))
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
