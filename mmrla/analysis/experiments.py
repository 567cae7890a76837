# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Experiments that compare networks over seeds, and what their runs gave.

``tools/misc/run_experiments.py`` runs them, a line of JSON for each network and
seed; ``tools/misc/update_evidence.py`` makes tables and a plot of the lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config

from ..datasets.digit_scenes import DigitSceneParams
from ..engine.config import DATALOADERS, leaf_datasets, load_config
from ..errors import UserError

__all__ = [
    'EXPERIMENTS',
    'Difference',
    'Experiment',
    'Network',
    'Score',
    'Summary',
    'data_root_of',
    'difference',
    'fit_scores',
    'iterations',
    'read_lines',
    'short_config',
    'size_scores',
    'summary',
    'values',
]

#: A line of the results.
Line = Dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network of an experiment.

    Attributes:
        label: Its name in tables.
        config: The config's name.
        plain: Label of the network that it is held against; None for none.
        options: Settings by dotted key that replace those of the config.
    """

    label: str
    config: str
    plain: Optional[str] = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A column of a table.

    Attributes:
        key: Its name in the results of ``tools/test.py``.
        label: Its name in tables.
        decimals: How many are shown. Defaults to 1.
        factor: What the result is multiplied by. Defaults to 1.
        offset: What is added then. Defaults to 0.
        compared: Whether differences to the plain network are shown.
        lower_is_better: Whether it is an error or a cost.
    """

    key: str
    label: str
    decimals: int = 1
    factor: float = 1.0
    offset: float = 0.0
    compared: bool = False
    lower_is_better: bool = False

    def of(self, scores: Mapping[str, float]) -> float:
        """The value that is shown, of a run's results."""
        return self.offset + self.factor * scores[self.key]


@dataclass(frozen=True)
class Experiment:
    """Networks that are trained and tested alike, with several seeds.

    Attributes:
        name: How it is asked for.
        title: What it is, in a few words.
        data: Name of the data set, to name another folder for it.
        train_images: Training images that there are.
        test_images: Images that are tested on.
        networks: What is compared.
        scores: What is shown; the compared ones are plotted.
        options: Settings by dotted key that replace those of all configs: the
            shortened schedule.
        scenes: The digit scenes that it needs; None for other data.
        loss_levels: For a fit, which is tested on the images that it is trained
            on: losses until which time is counted.
        seeds: Defaults to 0, 1 and 2.
    """

    name: str
    title: str
    data: str
    train_images: int
    test_images: int
    networks: Tuple[Network, ...]
    scores: Tuple[Score, ...]
    options: Mapping[str, Any]
    scenes: Optional[DigitSceneParams] = None
    loss_levels: Tuple[float, ...] = ()
    seeds: Tuple[int, ...] = (0, 1, 2)

    def network(self, label: str) -> Network:
        """The network of a label."""
        return next(n for n in self.networks if n.label == label)


#: Areas of boxes in pixels: up to 20x20, up to 32x32, larger.
SIZES = dict(small=(0, 20**2), medium=(20**2, 32**2), large=(32**2, 1e10))


# --- the experiments ----------------------------------------------------------


def _iterations_only(total: int, warm_up: int) -> Dict[str, Any]:
    """A training of so many iterations: warm-up, cosine, the last weights kept."""
    return {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=total),
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=warm_up),
            dict(
                type='CosineAnnealingLR',
                by_epoch=False,
                begin=warm_up,
                end=total,
                T_max=total - warm_up,
            ),
        ],
        'val_dataloader': None,
        'val_cfg': None,
        'val_evaluator': None,
        'default_hooks.checkpoint': dict(
            _delete_=True,
            type='CheckpointHook',
            by_epoch=False,
            interval=100,
            max_keep_ckpts=1,
        ),
        'default_hooks.logger.interval': 10,
        'log_processor': dict(by_epoch=False),
    }


# Half the side: four times as many steps in the same time.
_HALVE = dict(type='Resize', scale=16, interpolation='area')
_PACK = dict(type='PackInputs')
_RLA_110, _RLA_164 = 'rla-resnet110_1xb128_cifar10', 'rla-resnet164_1xb128_cifar10'
_DENSE = 'densenet-bc100{}_1xb128_cifar10'

CIFAR10 = Experiment(
    name='cifar10',
    title='CIFAR-10 at 16x16',
    data='cifar10',
    train_images=45_000,
    test_images=10_000,
    networks=(
        Network('ResNet-110', 'resnet110_1xb128_cifar10'),
        Network('RLA-ResNet-110', _RLA_110, 'ResNet-110'),
        Network(
            'RLA-ResNet-110, released wiring',
            _RLA_110,
            'ResNet-110',
            {'model.backbone.integration': 'v3'},
        ),
        Network('ResNet-164', 'resnet164_1xb128_cifar10'),
        Network('RLA-ResNet-164', _RLA_164, 'ResNet-164'),
        Network(
            'RLA-ResNet-164, released wiring',
            'rla-resnet164-v3_1xb128_cifar10',
            'ResNet-164',
        ),
        Network('DenseNet-BC-100', _DENSE.format('')),
        Network('Shared-Lag', _DENSE.format('-shared-lag'), 'DenseNet-BC-100'),
        Network('Shared-Ordinal', _DENSE.format('-shared-ordinal'), 'DenseNet-BC-100'),
    ),
    scores=(
        Score(
            'accuracy/top1',
            'Top-1 error (%)',
            factor=-1,
            offset=100,
            compared=True,
            lower_is_better=True,
        ),
    ),
    options={
        **_iterations_only(400, warm_up=50),
        'train_dataloader.batch_size': 32,
        'train_dataloader.num_workers': 0,
        'train_dataloader.dataset.dataset.pipeline': [
            _HALVE,
            dict(type='RandomCrop', crop_size=16, padding=2),
            dict(type='RandomFlip', prob=0.5, direction='horizontal'),
            _PACK,
        ],
        'test_dataloader.num_workers': 0,
        'test_dataloader.dataset.pipeline': [_HALVE, _PACK],
        'optim_wrapper.optimizer.lr': 0.05,
    },
)

#: The scenes of configs/digits.
HARD_SCENES = DigitSceneParams(
    num_train=600,
    num_val=200,
    image_size=96,
    digits=(3, 6),
    digit_size=(16, 48),
    max_box_overlap=0.5,
    max_hidden=0.4,
    clutter=(2, 6),
)


def _digits(
    detector: str, title: str, kinds: Tuple[Tuple[str, str], ...]
) -> Experiment:
    """Thin networks in a detector on the hard scenes.

    Args:
        detector: How its configs begin.
        title: Its name.
        kinds: 'bbox' or 'segm', and its name.
    """
    networks = (
        ('ResNet', 'r50-thin'),
        ('ECA', 'eca-r50-thin'),
        ('RLA', 'rla-r50-thin'),
        ('RLA, released wiring', 'rla-r50-thin-released'),
        ('RLA-ECA', 'rla-eca-r50-thin'),
    )
    scores: List[Score] = []
    for kind, name in kinds:
        scores.append(
            Score(f'coco/{kind}_mAP', f'{name} AP', factor=100, compared=True)
        )
        scores += [
            Score(f'size/{kind}_{size}', f'{name} AP {size}', factor=100)
            for size in SIZES
        ]
    return Experiment(
        name=f'digits-{detector}',
        title=f'{title} on digit scenes',
        data='digits',
        train_images=HARD_SCENES.num_train,
        test_images=HARD_SCENES.num_val,
        networks=tuple(
            Network(
                label,
                f'{detector}_{name}_fpn_1xb4-12e_hard-digits',
                None if label == 'ResNet' else 'ResNet',
            )
            for label, name in networks
        ),
        scores=tuple(scores),
        options={
            'val_dataloader': None,
            'val_cfg': None,
            'val_evaluator': None,
            'default_hooks.checkpoint.max_keep_ckpts': 1,
        },
        scenes=HARD_SCENES,
    )


MASK_RCNN = _digits('mask-rcnn', 'Mask R-CNN', (('bbox', 'Box'), ('segm', 'Mask')))
RETINANET = _digits('retinanet', 'RetinaNet', (('bbox', 'Box'),))

_SCRATCH = {
    'model.backbone.init_cfg': None,
    'model.backbone.frozen_stages': -1,
    'model.backbone.norm_eval': False,
}
_FIT_LEVELS = (1.0, 0.5)
_LOAD = dict(type='LoadImageFromFile')
_SMALL = dict(type='Resize', scale=(192, 144), keep_ratio=True)
_BOXES = dict(type='LoadAnnotations', with_bbox=True)
_FOUR_IMAGES = dict(data_root='data/tiny_coco/', indices=[0, 1, 2, 3])
#: What is trained on, to be tested on: the metric takes the boxes from each sample,
#: as the file of annotations has other images too.
_TRAINED_ON = dict(
    **_FOUR_IMAGES,
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    test_mode=False,
    filter_cfg=dict(filter_empty_gt=True, min_size=32),
    pipeline=[
        _LOAD,
        _SMALL,
        _BOXES,
        dict(
            type='PackDetInputs',
            meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor', 'instances'),
        ),
    ],
)

TINY_COCO = Experiment(
    name='tiny-coco-fit',
    title='Faster R-CNN from scratch on four COCO images',
    data='coco',
    train_images=4,
    test_images=4,
    networks=(
        Network('ResNet-50', 'faster-rcnn_r50_fpn_4xb2-1x_coco'),
        Network('RLA-ResNet-50', 'faster-rcnn_rla-r50_fpn_4xb2-1x_coco', 'ResNet-50'),
        Network(
            'RLA-ResNet-50, released wiring',
            'faster-rcnn_rla-r50-released_fpn_4xb2-1x_coco',
            'ResNet-50',
        ),
    ),
    scores=(
        Score('fit/first', 'First loss', decimals=2),
        Score('fit/last', 'Last loss', decimals=2),
        Score('coco/bbox_mAP_50', 'AP50 on these images', factor=100, decimals=0),
        Score('coco/bbox_mAP', 'AP on these images', factor=100, decimals=0),
        *(
            Score(f'fit/{key}_{level:g}', f'{label} to loss {level:g}', decimals=0)
            for level in _FIT_LEVELS
            for key, label in (
                ('iterations', 'Iterations'),
                ('cpu_seconds', 'CPU seconds'),
            )
        ),
    ),
    options={
        **_iterations_only(80, warm_up=5),
        **_SCRATCH,
        # All images in each step: the loss is that of all of them.
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 0,
        **{f'train_dataloader.dataset.{k}': v for k, v in _FOUR_IMAGES.items()},
        'train_dataloader.dataset.pipeline': [
            _LOAD,
            _BOXES,
            _SMALL,
            dict(type='PackDetInputs'),
        ],
        'model.train_cfg.rcnn.sampler.num': 128,
        **{f'test_dataloader.dataset.{k}': v for k, v in _TRAINED_ON.items()},
        'test_dataloader.num_workers': 0,
        'test_evaluator': dict(_delete_=True, type='CocoMetric', metric='bbox'),
        'optim_wrapper.optimizer': dict(
            _delete_=True, type='AdamW', lr=2e-4, weight_decay=0.05
        ),
        'default_hooks.logger.interval': 1,
        'log_processor': dict(by_epoch=False, window_size=1),
    },
    loss_levels=_FIT_LEVELS,
    seeds=(0, 1),
)

#: By name.
EXPERIMENTS: Dict[str, Experiment] = {
    e.name: e for e in (CIFAR10, MASK_RCNN, RETINANET, TINY_COCO)
}


# --- configs ------------------------------------------------------------------


def short_config(
    experiment: Experiment, network: Network, seed: int, data_root: Optional[str] = None
) -> Config:
    """The config of a run.

    Args:
        experiment: The experiment.
        network: One of its networks.
        seed: The seed.
        data_root: Folder of the data; by default the config's.

    Raises:
        UserError: If the options do not fit the config.
    """
    options = deepcopy({**experiment.options, **network.options})
    cfg = load_config(network.config, options)
    cfg.randomness = dict(seed=seed)
    if data_root is not None:
        _move_data(cfg, data_root)
    return cfg


def data_root_of(cfg: Config) -> str:
    """The folder that a config reads its training data from."""
    _, leaf = next(leaf_datasets(cfg.train_dataloader.dataset, ''))
    return str(leaf.data_root)


def _move_data(cfg: Config, folder: str) -> None:
    """Read all data from another folder."""
    old = data_root_of(cfg).rstrip('/')
    for name in DATALOADERS:
        for _, leaf in leaf_datasets((cfg.get(name) or {}).get('dataset'), ''):
            leaf.data_root = folder
    for name in ('val_evaluator', 'test_evaluator'):
        evaluator = cfg.get(name)
        if evaluator and 'ann_file' in evaluator:
            inside = Path(evaluator.ann_file).relative_to(old)
            evaluator.ann_file = str(Path(folder) / inside)


def iterations(experiment: Experiment, cfg: Config) -> int:
    """Iterations of a whole training."""
    if 'max_iters' in cfg.train_cfg:
        return int(cfg.train_cfg.max_iters)
    per_epoch = math.ceil(experiment.train_images / cfg.train_dataloader.batch_size)
    return int(cfg.train_cfg.max_epochs) * per_epoch


# --- results ------------------------------------------------------------------


def read_lines(path: Path) -> List[Line]:
    """The results that were recorded.

    Raises:
        UserError: If a line is no JSON.
    """
    lines = []
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f'{path}, line {number} is no JSON ({error}): remove it, and what it '
                'was is run again'
            ) from error
    return lines


def values(
    lines: Sequence[Line], experiment: Experiment, network: Network, score: Score
) -> Dict[int, float]:
    """A score of a network by seed."""
    found = {
        line['seed']: score.of(line['scores'])
        for line in lines
        if line['experiment'] == experiment.name
        and line['network'] == network.label
        and score.key in line['scores']
    }
    return dict(sorted(found.items()))


# --- scores that the tools do not give ------------------------------------------


def size_scores(ann_file: Path, results: Path, kind: str) -> Dict[str, float]:
    """AP by the size of objects; COCO's own sizes are of larger images.

    Args:
        ann_file: Annotations in COCO's format.
        results: What mmdet's ``CocoMetric`` has written.
        kind: 'bbox' or 'segm'; the size is that of the box for both.

    Returns:
        Keys like 'size/bbox_small'; a size without objects has none, and results
        without any find have none at all.
    """
    if not json.loads(results.read_text()):
        return {}
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        found = truth.loadRes(str(results))
        for ann in [*truth.anns.values(), *found.anns.values()]:
            ann['area'] = ann['bbox'][2] * ann['bbox'][3]
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.areaRngLbl = list(SIZES)
        evaluation.params.areaRng = [list(limits) for limits in SIZES.values()]
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class, size, number of detections)
    precision = evaluation.eval['precision'][:, :, :, :, -1]
    scores = {}
    for i, name in enumerate(SIZES):
        known = precision[..., i]
        known = known[known > -1]
        if known.size:
            scores[f'size/{kind}_{name}'] = float(known.mean())
    return scores


def fit_scores(
    losses: Mapping[int, float], levels: Sequence[float], cpu_seconds: Optional[float]
) -> Dict[str, float]:
    """How a loss falls on the images that are trained on.

    Args:
        losses: Loss by iteration.
        levels: Losses until which iterations and time are counted.
        cpu_seconds: CPU time of the whole training; None if it is not known.

    Returns:
        The first and the last loss, and for each level that was reached the first
        iteration below it and the CPU time until then.
    """
    steps = sorted(losses)
    scores = {'fit/first': losses[steps[0]], 'fit/last': losses[steps[-1]]}
    for level in levels:
        below = [step for step in steps if losses[step] < level]
        if below:
            scores[f'fit/iterations_{level:g}'] = float(below[0])
            if cpu_seconds is not None:
                share = below[0] / steps[-1]
                scores[f'fit/cpu_seconds_{level:g}'] = share * cpu_seconds
    return scores


class Summary(NamedTuple):
    """Scores of one network.

    Attributes:
        size: How many.
        mean: Their mean.
        std: Their standard deviation (n - 1); NaN for one.
    """

    size: int
    mean: float
    std: float


def summary(scores: Sequence[float]) -> Summary:
    """Mean and spread.

    Raises:
        ValueError: If there is no score.
    """
    if not scores:
        raise ValueError('scores is empty, expected one or more')
    std = float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan
    return Summary(len(scores), float(np.mean(scores)), std)


# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


class Difference(NamedTuple):
    """Differences of two networks, a pair for each seed that both have.

    Attributes:
        size: Number of pairs.
        mean: Mean difference.
        std: Standard deviation of the differences; NaN for one pair.
        half_width: Half the 95% interval of the mean (Student's t); NaN for one.
    """

    size: int
    mean: float
    std: float
    half_width: float

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.half_width


def difference(
    one: Mapping[int, float], other: Mapping[int, float]
) -> Optional[Difference]:
    """How far scores lie above others, paired by seed.

    Args:
        one: Scores by seed.
        other: Those that they are held against.

    Returns:
        None if no seed is in both.
    """
    pairs = [one[seed] - other[seed] for seed in one if seed in other]
    if not pairs:
        return None
    size, mean, std = summary(pairs)
    half = math.nan
    if size > 1:
        # Beyond the table the quantile hardly changes any more.
        half = _T[min(size - 1, len(_T)) - 1] * std / math.sqrt(size)
    return Difference(size, mean, std, half)
