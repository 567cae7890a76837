# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over mmpretrain's networks: what ``RLAResNet`` means in an mmpretrain config."""

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
    """mmpretrain's ResNets have no ``plugins``; these take them as mmdet's do.

    Args:
        *args: Arguments of mmpretrain's network.
        plugins: Layers behind the last norm of each block, such as
            ``[dict(cfg=dict(type='ECALayer'), position='after_conv3')]``.
        extra_channels (int): Channels added to every output of a stage, a
            quarter of them to the widths of bottlenecks; ablation (a) has 32.
        **kwargs: Arguments of mmpretrain's network and of RLA.
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
        """A stage of blocks, widened, with plugins."""
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

    Takes mmpretrain's arguments, with mmpretrain's defaults, ``plugins`` as
    mmdet's ResNet takes them, ``extra_channels`` (ablation (a)), and the
    arguments of :class:`mmrla.models.RLA`.
    """


@MODELS.register_module()
class RLAResNetV1c(_WithPlugins, ResNetV1c):
    """mmpretrain's ResNet with a deep stem, with RLA."""


@MODELS.register_module()
class RLAResNetV1d(_WithPlugins, ResNetV1d):
    """mmpretrain's ResNet-D (deep stem, average-pooled identity) with RLA."""


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
    """For blocks with an SE layer: it stands where a plugin stands, before others."""

    def make_res_layer(self, **kwargs: Any) -> nn.Sequential:
        """A stage of blocks, the SE layer among their plugins."""
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
    """mmpretrain's ResNet for images of 32x32, as wide as ImageNet's, with RLA."""


class SubsampleAndPad(nn.Module):
    """The identity without parameters: every second pixel, zero channels (option A).

    Args:
        channels (int): Channels to add, half of them before and half behind.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C + channels, H/2, W/2)."""
        half = self.channels // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.channels - half))


class CIFARResNet(ResNet_CIFAR):
    """The thin ResNet for images of 32x32 of He et al. 2015 (Section 4.2).

    A 3x3 stem and three stages of basic blocks with 16, 32 and 64 channels; the
    identity is subsampled and padded (option A).

    Args:
        depth (int): 6n + 2 for n blocks a stage: 20, 32, 44, 56, 110.
        **kwargs: Arguments of mmpretrain's ResNet.
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
    """:class:`CIFARResNet`, post-activated, with RLA; ``rla_channels=0`` is plain."""


@MODELS.register_module()
class RLAMobileNetV2(RLAOverMobileNetV2, MobileNetV2):
    """mmpretrain's MobileNetV2 with RLA."""
