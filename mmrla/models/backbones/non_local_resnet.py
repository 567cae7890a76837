# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""ResNet with one non-local block, the baseline "+1 NL" of Table 5."""

from typing import Any, Optional, Tuple

from mmcv.cnn import NonLocal2d
from mmengine.registry import MODELS
from torch import Tensor, nn


def _apply_non_local(
    block: nn.Module, inputs: Tuple[Tensor, ...], output: Tensor
) -> Tensor:
    return block.non_local(output)


@MODELS.register_module()
def NonLocalResNet(non_local: Optional[dict] = None, **kwargs: Any) -> nn.Module:
    """mmdet's ResNet with one non-local block before the last block of stage c4.

    mmdet's own ``plugins`` put a module into every block of a stage. The block
    starts as the identity, and the other parameters keep their names, so that
    the weights of a plain ResNet fit.

    Args:
        non_local (dict, optional): Arguments of mmcv's ``NonLocal2d``.
        **kwargs: Arguments of ``mmdet.ResNet``, of at least three stages.

    Raises:
        ValueError: If the ResNet has fewer than three stages.
    """
    if kwargs.get('num_stages', 4) < 3:
        raise ValueError(
            f'num_stages={kwargs["num_stages"]} is not in the range 3 to 4: the '
            'non-local block belongs to the third stage'
        )
    backbone = MODELS.build(dict(type='mmdet.ResNet', **kwargs))
    # A hook rather than a module between the blocks, which would rename them.
    block = backbone.layer3[-2]
    block.add_module(
        'non_local', NonLocal2d(block.norm3.num_features, **(non_local or {}))
    )
    block.register_forward_hook(_apply_non_local)
    return backbone
