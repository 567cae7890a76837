# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmpretrain's networks, for mmpretrain configs."""

from typing import Any, List, Optional

from mmpretrain.models.backbones import (
    MobileNetV2,
    RegNet,
    Res2Net,
    ResNeSt,
    ResNet,
    ResNet_CIFAR,
    ResNetV1c,
    ResNetV1d,
    ResNeXt,
    SEResNet,
    SEResNeXt,
)
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.plugins import add_layer_plugins, plugin_names
from .mobilenet_v2 import RLAOverMobileNetV2
from .resnet import RLAOverRes2Net, RLAOverResNeSt, RLAOverResNet, RLAOverSmallStem

__all__ = [
    'CIFARResNet',
    'RLACIFARResNet',
    'RLAMobileNetV2',
    'RLARegNet',
    'RLARes2Net',
    'RLAResNeSt',
    'RLAResNet',
    'RLAResNetV1c',
    'RLAResNetV1d',
    'RLAResNeXt',
    'RLAResNet_CIFAR',
    'RLASEResNeXt',
    'RLASEResNet',
]


class _WithPlugins(RLAOverResNet):
    """RLA over mmpretrain's ResNets, with ``plugins`` as mmdet's ResNet has them.

    Args:
        *args: Arguments of mmpretrain's network.
        plugins: Layers after the last norm of each block, such as
            ``[dict(cfg=dict(type='ECALayer'), position='after_conv3')]``. Defaults to
            None.
        extra_channels (int): Channels added to the outputs of each stage, and a
            quarter of them to the width of its bottlenecks; 32 in ablation (a).
            Defaults to 0.
        **kwargs: Arguments of mmpretrain's network and of :class:`mmrla.models.RLA`.

    Raises:
        ValueError: If ``extra_channels`` is negative or no multiple of the blocks'
            expansion (4 in a bottleneck), or a plugin has another position.
    """

    def __init__(
        self,
        *args: Any,
        plugins: Optional[List[dict]] = None,
        extra_channels: int = 0,
        **kwargs: Any,
    ) -> None:
        self._plugins, self._extra_channels = plugins, extra_channels
        super().__init__(*args, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage, widened and with plugins."""
        extra = self._extra_channels
        if extra % kwargs['expansion'] or extra < 0:
            raise ValueError(
                f'extra_channels={extra} is not a multiple of {kwargs["expansion"]}, '
                '0 or more'
            )
        i = len(self.res_layers)
        kwargs['out_channels'] += extra
        kwargs['in_channels'] += extra if i else 0
        layer = super().make_res_layer(**kwargs)
        widths = [block.out_channels for block in layer]
        add_layer_plugins(i, self.num_stages, layer, widths, self._plugins)
        return layer


@MODELS.register_module()
class RLAResNet(_WithPlugins, ResNet):
    """mmpretrain's ResNet with recurrent layer aggregation (Section 3.3).

    Takes the arguments of mmpretrain's ResNet, with mmpretrain's defaults, those of
    :class:`mmrla.models.RLA`, and two more:

    Args:
        plugins: Layers after the last norm of each block, in the form that mmdet's
            ResNet takes; ``position`` is 'after_conv3'. Defaults to None.
        extra_channels (int): Channels added to the outputs of each stage, 32 in
            ablation (a). Defaults to 0.
    """


@MODELS.register_module()
class RLAResNetV1c(_WithPlugins, ResNetV1c):
    """mmpretrain's ResNet with a deep stem of three 3x3 convs, with RLA."""


@MODELS.register_module()
class RLAResNetV1d(_WithPlugins, ResNetV1d):
    """mmpretrain's ResNet-D with RLA: deep stem, average-pooled identity."""


@MODELS.register_module()
class RLAResNeXt(_WithPlugins, ResNeXt):
    """mmpretrain's ResNeXt with RLA."""


@MODELS.register_module()
class RLARes2Net(RLAOverRes2Net, _WithPlugins, Res2Net):
    """mmpretrain's Res2Net with RLA."""


@MODELS.register_module()
class RLAResNeSt(RLAOverResNeSt, _WithPlugins, ResNeSt):
    """mmpretrain's ResNeSt with RLA."""


class _SEBlocks(_WithPlugins):
    """RLA over blocks with an SE layer, which is run as the first plugin."""

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """Build a stage whose blocks have the SE layer among their plugins."""
        layer = super().make_res_layer(**kwargs)
        for block in layer:
            block.after_conv3_plugin_names = ['se_layer', *plugin_names(block, 3)]
        return layer


@MODELS.register_module()
class RLASEResNet(_SEBlocks, SEResNet):
    """mmpretrain's SEResNet with RLA."""


@MODELS.register_module()
class RLASEResNeXt(_SEBlocks, SEResNeXt):
    """mmpretrain's SEResNeXt with RLA."""


@MODELS.register_module()
class RLARegNet(RLAOverSmallStem, _WithPlugins, RegNet):
    """mmpretrain's RegNet with RLA."""


@MODELS.register_module()
class RLAResNet_CIFAR(RLAOverSmallStem, _WithPlugins, ResNet_CIFAR):
    """mmpretrain's ResNet for images of 32x32, as wide as for ImageNet, with RLA."""


class SubsampleAndPad(nn.Module):
    """Identity of He et al. 2015, option A: every second pixel, padded with zeros.

    Args:
        channels (int): Number of zero channels, half of them before those of x and
            half after.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + channels, H/2, W/2)."""
        half = self.channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.channels - half))


class CIFARResNet(ResNet_CIFAR):
    """The thin ResNet of He et al. 2015 (Section 4.2) for images of 32x32.

    A 3x3 stem and three stages of basic blocks with 16, 32 and 64 channels. The
    identity has no parameters, see :class:`SubsampleAndPad`.

    Args:
        depth (int): 20, 32, 44, 56 or 110, which is 6n + 2 for n blocks per stage.
        **kwargs: Arguments of mmpretrain's ResNet.

    Raises:
        KeyError: For another depth.
    """

    arch_settings = {6 * n + 2: (BasicBlock, (n,) * 3) for n in (3, 5, 7, 9, 18)}

    def __init__(self, depth: int, **kwargs: Any) -> None:
        defaults: dict = dict(
            stem_channels=16,
            base_channels=16,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        )
        super().__init__(depth, **{**defaults, **kwargs})
        for name in self.res_layers:
            block = getattr(self, name)[0]
            if block.downsample is not None:
                block.downsample = SubsampleAndPad(
                    block.out_channels - block.in_channels
                )


@MODELS.register_module()
class RLACIFARResNet(RLAOverSmallStem, _WithPlugins, CIFARResNet):
    """:class:`CIFARResNet` with RLA; the plain network with ``rla_channels=0``.

    Args:
        depth (int): 20, 32, 44, 56 or 110.
        **kwargs: Arguments of :class:`RLAResNet`.
    """


@MODELS.register_module()
class RLAMobileNetV2(RLAOverMobileNetV2, MobileNetV2):
    """mmpretrain's MobileNetV2 with RLA."""
