# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""DenseNet-BC for CIFAR and its two simplifications (Table 1, Eq. 9 and 10).

mmpretrain's DenseNet is for ImageNet: its stem has stride 4.

For CIFAR-10 the plain network has 769,162 parameters, and 587,722 with shared convs.
Table 1 gives 0.80M and 0.60M, which agree in the first digit (Huang et al. give 0.8M);
no reading of the text yields the second.
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

    Layer t reads x_1 ... x_{t-1}, with the weights of lags t-1 ... 1 or of ordinal
    numbers 1 ... t-1. They are stored in the order in which features are concatenated,
    so the weight of a layer is a view: of the last input channels for 'lag', of the
    first for 'ordinal'.

    Args:
        sharing (str): 'lag' (Eq. 9) or 'ordinal' (Eq. 10).
        num_inputs (int): Number of lags or ordinal numbers.
        growth_rate (int): Channels of each of x_1, x_2, ...
        out_channels (int): Channels of the output.
    """

    def __init__(
        self, sharing: str, num_inputs: int, growth_rate: int, out_channels: int
    ) -> None:
        super().__init__(f'sharing={sharing!r}', 'build the backbone with {found}')
        self.sharing = sharing
        self.growth_rate = growth_rate
        self.conv = nn.Conv2d(num_inputs * growth_rate, out_channels, 1, bias=False)

    def weight(self, num_inputs: int) -> Tensor:
        """The weight for x_1 ... x_{num_inputs}, (out_channels, C, 1, 1).

        C is num_inputs * growth_rate.
        """
        channels = num_inputs * self.growth_rate
        start = 0
        if self.sharing == 'lag':
            start = self.conv.in_channels - channels
        return self.conv.weight[:, start : start + channels]

    def norms(self, p: float = 1.0) -> Tensor:
        """p-norms, (num_inputs, ), of the weights of lag or ordinal number 1, 2, ..."""
        weight = self.conv.weight.detach()[:, :, 0, 0]
        norms = torch.stack(
            [part.norm(p) for part in weight.split(self.growth_rate, dim=1)]
        )
        return norms.flip(0) if self.sharing == 'lag' else norms


class DenseLayer(BaseModule):
    """Norm, ReLU, 1x1 conv, norm, ReLU and 3x3 conv of all features before.

    Args:
        in_channels (int): Channels of all these features.
        own_channels (int): The first channels, which the layer's own 1x1 conv reads;
            a shared conv reads the others.
        growth_rate (int): Channels of the output.
        width (int): Channels between the two convs.
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
        """The output of the 1x1 conv, (N, width, H, W).

        Args:
            shared: Weight of the shared conv, (width, C, 1, 1); None for none.
            *features: All features before, (N, C_i, H, W) each.
        """
        x = self.relu(self.norm1(torch.cat(features, dim=1)))
        if shared is None:
            return self.conv1(x)
        # One conv instead of the sum of two; the weights are small.
        return F.conv2d(x, torch.cat((self.conv1.weight, shared), dim=1))

    def expand(self, x: Tensor) -> Tensor:
        """The output of the 3x3 conv, (N, growth_rate, H, W), from the 1x1 conv's."""
        return self.conv2(self.relu(self.norm2(x)))


class DenseBlock(BaseModule):
    """Layers, each of which reads the input of the block and all layers before.

    Args:
        num_layers (int): Number of layers.
        in_channels (int): Channels of the block's input x_0.
        growth_rate (int): Channels of each layer's output.
        width (int): Channels between the two convs of a layer.
        sharing (str, optional): Which 1x1 convs are shared, except for x_0: those of
            equal 'lag' or 'ordinal' number; None for none.
        norm_cfg (dict): Config of norm layers.
        with_cp (bool): Whether to recompute norms and 1x1 convs in the backward pass,
            which saves memory.
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
        # The conv is linear: pooling first is the same for a quarter of the work.
        return self.conv(self.pool(self.relu(self.norm(x))))


@MODELS.register_module()
class DenseNetBC(BaseModule):
    """DenseNet-BC for images of 32x32, plain or with shared 1x1 convs.

    A 3x3 stem conv and three dense blocks at strides 1, 2 and 4, then norm and ReLU
    (Huang et al. 2017).

    Args:
        depth (int): 6n + 4 for n layers in each block. Defaults to 100.
        growth_rate (int): Channels of each layer's output. Defaults to 12.
        sharing (str, optional): Which 1x1 convs of a block share weights: those of
            equal 'lag' (Eq. 9) or of equal 'ordinal' number (Eq. 10). Each layer keeps
            its own weights for the block's input. Defaults to None, the plain network.
        compression (float): Share of the channels that a transition keeps, above 0
            and at most 1. Defaults to 0.5.
        in_channels (int): Channels of the images. Defaults to 3.
        out_indices: Indices (from 0) of the blocks whose outputs are returned. Norm and
            ReLU follow the last of them. Defaults to (2,).
        norm_cfg (dict): Config of norm layers. Defaults to BN.
        with_cp (bool): Whether to recompute norms and 1x1 convs in the backward pass,
            which saves memory. Defaults to False.
        init_cfg: As in BaseModule. Defaults to None, He normal by fan-out.

    Raises:
        ValueError: If an argument is out of range; the message has the allowed values.

    Example:
        >>> import torch
        >>> from mmrla.models import DenseNetBC
        >>> model = DenseNetBC(sharing='lag').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 32, 32))]
        [(1, 342, 8, 8)]
    """

    num_stages = 3
    #: Output channels of the 1x1 convs per ``growth_rate`` (the B of BC).
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

    def shared_weight_norms(self, p: float = 1.0) -> List[Tensor]:
        """Norms of the shared 1x1 convs, the curves of Figure 2.

        Args:
            p (float): The order of the norm. Defaults to 1.

        Returns:
            One tensor for each dense block, with the norms of the weights of lag or
            ordinal number 1, 2, ...

        Raises:
            ValueError: If the network has no shared convs.
        """
        if any(stage.shared is None for stage in self.stages):
            raise ValueError(
                f'sharing={self.sharing!r}, depth={self.depth}: no 1x1 conv is '
                "shared; sharing='lag' or 'ordinal' from depth 16 on does"
            )
        return [stage.shared.norms(p) for stage in self.stages]

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Images (N, in_channels, H, W) to the outputs (N, C, H, W) of the blocks."""
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
