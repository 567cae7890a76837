# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Build, load and count a config's network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from ..checkpoints.verify import network_of
from ..engine.checkpoint_io import load_foreign
from ..engine.checks import check_checkpoint, check_complete
from ..engine.config import load_config
from ..engine.data import leaf_datasets
from ..engine.errors import config_errors
from ..errors import UserError, one_line
from ..models.rla import RLA
from ..registry import class_of, default_scope, type_name
from .complexity import Complexity, Cost, measure

#: The place where a classifier joins the last hidden state.
AFTER = 'after the stages'


@dataclass(frozen=True)
class Share:
    """The RLA part of a stage, which the plain network does not have.

    Attributes:
        where: Name of the stage's unit, or :data:`AFTER`.
        unit: Parameters and cost of the RLA unit; after the stages, of the last
            state's norm and activation.
        reading: Parameters and cost of reading the hidden state: the reads of
            blocks, the classifier's columns for h.
    """

    where: str
    unit: Tuple[int, Cost]
    reading: Tuple[int, Cost]

    @property
    def unit_name(self) -> str:
        """What ``unit`` is."""
        return 'norm of h' if self.where == AFTER else 'RLA unit'

    @property
    def total(self) -> Tuple[int, Cost]:
        """Parameters and cost of both."""
        return self.unit[0] + self.reading[0], self.unit[1] + self.reading[1]


@dataclass(frozen=True)
class Analysis:
    """Counts of a config's network.

    Attributes:
        shape: Height and width of the network's input, padding included.
        complexity: Parameters and cost.
        parts: Names of the modules to report, in order.
        proposals: RoIs of a two-stage detector, None for other networks.
        shares: The RLA part by stage; empty for a network without one.
    """

    shape: Tuple[int, int]
    complexity: Complexity
    parts: List[str]
    proposals: Optional[int]
    shares: List[Share]


def input_shape(cfg: Config) -> Tuple[int, int]:
    """Height and width of a config's test images.

    Taken from the last crop or resize of the test pipeline; 224x224 without one.
    A detector's ``scale`` is (long side, short side): the image is landscape.

    Args:
        cfg: The config of an experiment.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    for _, dataset in leaf_datasets(loader.get('dataset'), 'dataset'):
        # CIFAR images are neither cropped nor resized.
        side = 32 if type_name(dataset).startswith('CIFAR') else 224
        size: Union[int, Sequence[int]] = side
        for transform in dataset.get('pipeline') or ():
            kind = type_name(transform)
            if kind == 'CenterCrop':
                size = transform['crop_size']
            elif kind == 'Resize' and transform.get('scale'):
                scale = transform['scale']
                size = scale if isinstance(scale, int) else scale[::-1]
        return (size, size) if isinstance(size, int) else (size[0], size[1])
    return 224, 224


def build(cfg: Config) -> nn.Module:
    """The network of a config, in eval mode, without its pretrained weights.

    Args:
        cfg: The config of an experiment.

    Raises:
        UserError: If it cannot be built; the message names the config.
    """
    with config_errors(cfg.filename), default_scope(cfg):
        model = MODELS.build(copy.deepcopy(cfg.model))
    # SyncBN needs a GPU and a process group.
    return revert_sync_batchnorm(model).eval()


def load_network(
    config: str, checkpoint: str, options: Optional[Dict[str, Any]] = None
) -> Tuple[Config, Any]:
    """A config and its network with the weights of a checkpoint, in eval mode.

    The network's ``dataset_meta`` comes from the checkpoint; empty if it has none.

    Args:
        config: Path of the config.
        checkpoint: Path of the checkpoint.
        options: Settings of ``--cfg-options``.

    Raises:
        UserError: If one is missing, or they do not belong together.
    """
    cfg = load_config(config, options)
    check_complete(cfg, ['model'])
    check_checkpoint(checkpoint, 'checkpoint', 'tools/train.py makes one')
    weights = load_foreign(checkpoint)
    if not isinstance(weights, dict) or 'state_dict' not in weights:
        raise UserError(f"checkpoint {checkpoint} has no 'state_dict'")
    with config_errors(config):
        model: Any = network_of(weights, checkpoint, cfg)
    meta = weights.get('meta')
    found = meta.get('dataset_meta') if isinstance(meta, dict) else None
    # As upstream's inferencers have it.
    model.dataset_meta = found if isinstance(found, dict) else {}
    return cfg, model


def network_class(cfg: Config) -> type:
    """The class of a config's network, without building it.

    Raises:
        UserError: If there is no such class; the message names the config.
    """
    check_complete(cfg, ['model'])
    with default_scope(cfg):
        kind = class_of(cfg.model, MODELS)
    if kind is None:
        raise UserError(
            f'{cfg.filename}: no model has the type {cfg.model.get("type")!r}'
        )
    return kind


def is_detector(network: Union[nn.Module, type]) -> bool:
    """Whether a network, or its class, is one of mmdet's detectors."""
    kind = network if isinstance(network, type) else type(network)
    # By name: mmdet takes seconds to import and may not be there.
    return any(base.__name__ == 'BaseDetector' for base in kind.__mro__)


def _padded(model: nn.Module, shape: Tuple[int, int]) -> Tuple[int, int]:
    preprocessor = getattr(model, 'data_preprocessor', None)
    divisor = getattr(preprocessor, 'pad_size_divisor', 1) or 1
    height, width = (-(-side // divisor) * divisor for side in shape)
    return height, width


def _data_samples(shape: Tuple[int, int]) -> List[Any]:
    from mmdet.structures import DetDataSample

    meta = dict.fromkeys(
        ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), shape
    )
    return [DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0)))]


def _fix_proposals(model: Any, shape: Tuple[int, int]) -> Optional[int]:
    """Give a two-stage detector the number of proposals it tests with.

    An untrained RPN finds a random number, and the RoI head's cost is proportional
    to it.
    """
    rpn_cfg = (getattr(model, 'test_cfg', None) or {}).get('rpn')
    if not getattr(model, 'with_rpn', False) or not rpn_cfg:
        return None
    number: int = rpn_cfg['max_per_img']
    rpn_head = model.rpn_head

    def predict(
        x: Tuple[Tensor, ...], batch_data_samples: list, rescale: bool = False
    ) -> List[InstanceData]:
        rpn_head(x)
        box = x[0].new_tensor([0, 0, shape[1], shape[0]])
        return [InstanceData(bboxes=box.repeat(number, 1))]

    rpn_head.predict = predict
    return number


def _parts(model: nn.Module) -> List[str]:
    """Top-level modules, with the backbone's children in place of the backbone."""
    parts = []
    for name, child in model.named_children():
        if name == 'backbone':
            parts += [f'backbone.{inner}' for inner, _ in child.named_children()]
        else:
            parts.append(name)
    return parts


def _images(cfg: Config, shape: Tuple[int, int], device: str) -> Tensor:
    channels = cfg.model.get('backbone', {}).get('in_channels', 3)
    return torch.zeros(1, channels, *shape, device=device)


def _run(
    cfg: Config, model: nn.Module, shape: Tuple[int, int], device: str
) -> Complexity:
    args = [_data_samples(shape)] if is_detector(model) else []
    return measure(model.to(device), _images(cfg, shape, device), *args)


def _run_anywhere(
    cfg: Config, shape: Tuple[int, int], proposals: Optional[int]
) -> Complexity:
    """Count on the meta device, or on the CPU if the network needs values."""
    if proposals is None:
        try:
            return _run(cfg, build(cfg), shape, 'meta')
        except Exception:  # nosec B110
            pass  # an error of the network itself is raised again below
    model = build(cfg)
    _fix_proposals(model, shape)
    try:
        return _run(cfg, model, shape, 'cpu')
    except Exception as error:
        raise UserError(
            f'{cfg.filename}: no forward pass with an image of '
            f'{shape[0]}x{shape[1]}: {type(error).__name__}: {one_line(error)}'
        ) from error


def _shares(model: Any, complexity: Complexity) -> List[Share]:
    """The cost of ``rla`` by stage, and of the classifier's part for h."""
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, RLA) or backbone.rla is None:
        return []

    def less(whole: Tuple[int, Cost], *parts: Tuple[int, Cost]) -> Tuple[int, Cost]:
        for params, cost in parts:
            whole = whole[0] - params, whole[1] - cost
        return whole

    shares = []
    last: Tuple[int, Cost] = (0, Cost())
    for i in range(len(backbone.rla)):
        name = f'backbone.rla.{i}'
        reading, last = complexity.of(f'{name}.read'), complexity.of(f'{name}.last')
        unit = less(complexity.of(name), reading, last)
        shares.append(Share(name, unit, reading))
    if last[0]:
        norm = complexity.of(f'backbone.rla.{len(backbone.rla) - 1}.last.norm')
        shares.append(Share(AFTER, norm, less(last, norm)))
    hidden = complexity.of('neck.hidden')
    k = getattr(getattr(model, 'head', None), 'rla_channels', 0)
    if hidden[1] != Cost() or k:
        # The classifier's columns and the pooling for h.
        head = model.head
        pooled = complexity.of('neck')[1].pool_ops * k // head.in_channels
        weights = k * head.num_classes
        shares.append(Share(AFTER, hidden, (weights, Cost(weights, 0, pooled))))
    return shares


def count(cfg: Config, shape: Tuple[int, int]) -> Complexity:
    """Parameters and cost of a config's classifier, without running it.

    Args:
        cfg: The config of an experiment.
        shape: Height and width of the input.
    """
    return _run(cfg, build(cfg), shape, 'meta')


def analyse(cfg: Config, shape: Optional[Tuple[int, int]] = None) -> Analysis:
    """Parameters and cost of a config's network by part, RLA's by stage.

    Args:
        cfg: The config of an experiment, a classifier's or a detector's.
        shape: Height and width of the images; as the config tests by default.

    Raises:
        UserError: If the config has no model, or its network cannot be built
            or does not take such images.
    """
    check_complete(cfg, ['model'])
    model = build(cfg)
    shape = _padded(model, shape or input_shape(cfg))
    proposals = _fix_proposals(model, shape)
    complexity = _run_anywhere(cfg, shape, proposals)
    shares = _shares(model, complexity)
    return Analysis(shape, complexity, _parts(model), proposals, shares)
