# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Every config: its recipe, its network, a training step and a prediction.

All configs are collected. A config's name tells its GPUs, batch size and epochs;
``RECIPES`` has the rest of its recipe.
"""

import copy
import fnmatch
import functools
import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    PARAM_SCHEDULERS,
    DefaultScope,
)
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.heads import LinearClsHead
from torch import nn

import mmrla  # noqa: F401  (registers the models)
from mmrla.models import CBAM, RLA, ECALayer, RLALinearClsHead, RLAUnit, SELayer
from mmrla.models.rla import INTEGRATIONS

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in ROOT.glob('*/*.py')
    if path.parent.name != '_base_'
)
DETECTORS = ('faster_rcnn', 'mask_rcnn', 'retinanet')


class Recipe(NamedTuple):
    """Values of facts that a config's name does not tell.

    Attributes:
        optimizer: Type of the optimizer.
        lr: Its learning rate.
        weight_decay: Its weight decay.
        lr_at: Learning rate, relative to ``lr``, at the start of epochs
            (from 0).
        warmup: Iterations of warm-up, if not epochs.
        nesterov: Whether momentum is Nesterov's.
    """

    optimizer: str
    lr: float
    weight_decay: float
    lr_at: Dict[int, float]
    warmup: int = 0
    nesterov: bool = False


STEPS_1X = {1: 1, 7: 1, 8: 0.1, 10: 0.1, 11: 0.01}
RECIPES = {
    '*_4xb64_in1k': Recipe(
        'SGD',
        0.1,
        1e-4,
        {0: 1, 29: 1, 30: 0.1, 60: 1e-2, 89: 1e-2, 90: 1e-3, 119: 1e-3},
    ),
    '*_2xb48_in1k': Recipe('SGD', 0.045, 4e-5, {0: 1, 1: 0.98, 399: 0.98**399}),
    '*_4xb64-coslr-200e_in1k': Recipe(
        'SGD', 0.1, 1e-4, {0: 0.25, 5: 1, 5 + 195 // 3: 0.75}
    ),
    '*-rsb-a1-600e_in1k': Recipe('Lamb', 0.005, 0.01, {0: 1e-4, 5: 1}),
    '*-rsb-a2-300e_in1k': Recipe('Lamb', 0.005, 0.02, {0: 1e-4, 5: 1}),
    '*-rsb-a3-100e_in1k': Recipe('Lamb', 0.008, 0.02, {0: 1e-4, 5: 1}),
    '*_1xb128_cifar*': Recipe(
        'SGD', 0.1, 1e-4, {0: 1, 149: 1, 150: 0.1, 224: 0.1, 225: 0.01}, nesterov=True
    ),
    '*_4xb2-1x_coco': Recipe('SGD', 0.01, 1e-4, STEPS_1X, warmup=500),
    # mmdet's own, where the weights are plain.
    'faster-rcnn_*-tv-pre_*_8xb2-1x_coco': Recipe(
        'SGD', 0.02, 1e-4, STEPS_1X, warmup=500
    ),
    'mask-rcnn_*-tv-pre_*_8xb2-1x_coco': Recipe(
        'SGD', 0.02, 1e-4, STEPS_1X, warmup=500
    ),
    'retinanet_*-tv-pre_*_8xb2-1x_coco': Recipe(
        'SGD', 0.01, 1e-4, STEPS_1X, warmup=500
    ),
    '*-rcnn_*-rsb-pre_*_8xb2-1x_coco': Recipe(
        'AdamW', 2e-4, 0.05, STEPS_1X, warmup=500
    ),
    'retinanet_*-rsb-pre_*_8xb2-1x_coco': Recipe(
        'AdamW', 1e-4, 0.05, STEPS_1X, warmup=500
    ),
    'fcos_*_8xb2-1x_coco': Recipe('SGD', 0.01, 1e-4, STEPS_1X, warmup=500),
    'atss_*_8xb2-1x_coco': Recipe('SGD', 0.01, 1e-4, STEPS_1X, warmup=500),
    'rtmdet_*_8xb32-300e_coco': Recipe(
        'AdamW', 0.004, 0.05, {2: 1, 150: 1, 200: 0.7625}, warmup=1000
    ),
    '*_1xb4-12e_hard-digits': Recipe(
        'AdamW', 2e-3, 0.05, {3: 0.855, 6: 0.505}, warmup=50
    ),
    'deformable-detr_*_16xb2-50e_coco': Recipe(
        'AdamW', 2e-4, 1e-4, {0: 1, 39: 1, 40: 0.1}
    ),
}
EPOCHS = {'4xb64': 120, '2xb48': 400, '1xb128': 300}

# What takes long, a training step for one, is fast with these and the first config of
# every folder without one, and slow with the others.
FAST = (
    'faster_rcnn/faster-rcnn_rla-r18-tv-pre_*',
    'mask_rcnn/mask-rcnn_rla-r50_fpn_*',
    'retinanet/retinanet_rla-r50_fpn_*',
    'rla_resnet/rla-resnet18_4xb64_in1k*',
    'rla_mobilenet_v2/rla-eca-mobilenet-v2-released_*',
    'ablations/rla-resnet50-post-act_*',
    'baselines/eca-mobilenet-v2_*',
    'cifar/rla-cifar-resnet20_*',
    'cifar/rla-xception_*_cifar100*',
    'cifar/densenet-bc100-shared-lag_*_cifar10.*',
)

ATTENTION = {'se': SELayer, 'cbam': CBAM, 'eca': ECALayer}
ABLATIONS: Dict[str, Dict[str, Any]] = {
    **{name: dict(integration=name) for name in INTEGRATIONS},
    'released': dict(integration='v3'),
    'unshared': dict(shared=False),
    'no-exchange': dict(exchange=False),
    'convlstm': dict(cell='convlstm'),
    'convgru': dict(cell='convgru'),
    'post-act': dict(cell='post-act'),
}


def _is_fast(name: str) -> bool:
    if any(fnmatch.fnmatch(name, pattern) for pattern in FAST):
        return True
    folder = name.split('/')[0]
    return name == next(n for n in CONFIGS if n.startswith(f'{folder}/')) and not any(
        pattern.startswith(f'{folder}/') for pattern in FAST
    )


each = pytest.mark.parametrize(
    'name',
    [pytest.param(n, marks=() if _is_fast(n) else pytest.mark.slow) for n in CONFIGS],
)


def _stem(name: str) -> str:
    return Path(name).stem


@functools.cache
def read(name: str) -> Config:
    """A config, cached: do not change it."""
    return Config.fromfile(ROOT / name)


def load(name: str) -> Config:
    """A config whose networks need no pretrained weights."""
    return without_weights(copy.deepcopy(read(name)))


def without_weights(cfg: Config) -> Config:
    cfg.model.backbone.init_cfg = None
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    return cfg


def build(model: dict, scope: str) -> BaseModel:
    """A detector, a classifier or a backbone."""
    if scope == 'mmdet':
        import mmdet.models  # noqa: F401
    else:
        import mmpretrain.models  # noqa: F401
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def build_network(cfg: Config) -> BaseModel:
    return build(cfg.model, cfg.default_scope)


def layout(name: str) -> Tuple[int, int, int]:
    """GPUs, images per GPU and epochs, from the name."""
    found = re.search(r'_(\d+)xb(\d+)(?:-[a-z0-9-]*?(\d+)(e|x))?_', _stem(name))
    assert found, f'{name} does not say GPUs and images as in 4xb64'
    gpus, images = int(found[1]), int(found[2])
    if found[3]:
        return gpus, images, int(found[3]) * (12 if found[4] == 'x' else 1)
    return gpus, images, EPOCHS[f'{gpus}xb{images}']


@functools.cache
def learning_rates(schedulers: str, lr: float, epochs: int) -> List[float]:
    """Learning rate at the start of every epoch."""
    cfgs = json.loads(schedulers)
    per_iter = any(not cfg.get('by_epoch', True) for cfg in cfgs)
    epoch_length = 600 if per_iter else 4
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    built = []
    for cfg in cfgs:
        cfg.pop('_scope_', None)
        if cfg.pop('convert_to_iter_based', False):
            cls = PARAM_SCHEDULERS.get(cfg.pop('type'))
            built.append(
                cls.build_iter_from_epoch(
                    optimizer=optimizer, epoch_length=epoch_length, **cfg
                )
            )
        else:
            built.append(PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer)))
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for _ in range(epoch_length):
            for scheduler in built:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in built:
            if scheduler.by_epoch:
                scheduler.step()
    return rates


def recipe_of(name: str) -> Optional[Recipe]:
    found = [r for p, r in RECIPES.items() if fnmatch.fnmatch(_stem(name), p)]
    assert len(found) <= 1, f'{name} has more than one recipe'
    return found[0] if found else None


@pytest.mark.parametrize('name', CONFIGS)
def test_recipe(name: str) -> None:
    cfg = read(name)
    gpus, images, epochs = layout(name)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr.base_batch_size == gpus * images
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.custom_imports.imports[0] == 'mmrla'

    recipe = recipe_of(name)
    if recipe is None:  # the demo's own
        assert name.startswith('demo/'), f'{name} has no recipe'
        return
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == recipe.optimizer
    assert optimizer.lr == recipe.lr
    assert optimizer.weight_decay == recipe.weight_decay
    assert optimizer.get('nesterov', False) == recipe.nesterov
    if recipe.optimizer == 'SGD':
        assert optimizer.momentum == 0.9

    schedulers = cfg.param_scheduler
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    text = json.dumps([dict(s) for s in schedulers])
    rates = learning_rates(text, recipe.lr, epochs)
    for epoch, factor in recipe.lr_at.items():
        assert rates[epoch] == pytest.approx(recipe.lr * factor, rel=2e-2), epoch
    warmup = [s for s in schedulers if not s.get('by_epoch', True)]
    assert sum(s.end for s in warmup) == recipe.warmup


@pytest.mark.parametrize('name', [n for n in CONFIGS if '_in1k' in n])
def test_imagenet_data(name: str) -> None:
    cfg = read(name)
    train, val = (
        {t.type: t for t in loader.dataset.pipeline}
        for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    assert train['RandomResizedCrop'].scale == 224
    assert train['RandomFlip'].prob == 0.5
    assert val['ResizeEdge'].scale == (236 if '-rsb-' in name else 256)
    assert val['CenterCrop'].crop_size == 224
    # As torchvision, with which the paper's figures were measured, resizes.
    for resize in (train['RandomResizedCrop'], val['ResizeEdge']):
        assert resize.backend == 'pillow'
    head = cfg.model.head
    loss = head.get('loss', dict(type='CrossEntropyLoss'))
    assert head.num_classes == 1000
    if '-coslr-200e' in name:
        assert loss.type == 'LabelSmoothLoss'
        assert loss.label_smooth_val == 0.1
        assert cfg.model.train_cfg.augments == dict(type='Mixup', alpha=0.2)
    elif '-rsb-' not in name:
        assert loss.type == 'CrossEntropyLoss'
        assert 'train_cfg' not in cfg.model


@pytest.mark.parametrize('name', [n for n in CONFIGS if '_cifar' in n])
def test_cifar_data(name: str) -> None:
    cfg = read(name)
    classes = int(name.split('cifar')[-1].split('.')[0])
    assert cfg.model.head.num_classes == classes
    assert cfg.data_preprocessor.num_classes == classes
    train, val, test = (
        cfg[f'{part}_dataloader'].dataset for part in ('train', 'val', 'test')
    )
    for fold in (train, val):
        assert fold.type == 'KFoldDataset'
        assert (fold.num_splits, fold.fold, fold.seed) == (10, 0, 0)
        assert fold.dataset.type == f'CIFAR{classes}Folders'
        assert fold.dataset.split == 'train'
    assert not train.get('test_mode')
    assert val.test_mode
    assert test.type == f'CIFAR{classes}Folders'
    assert test.split == 'test'
    assert [t.type for t in train.dataset.pipeline][:2] == ['RandomCrop', 'RandomFlip']
    assert train.dataset.pipeline[0].padding == 4
    assert [t.type for t in val.dataset.pipeline] == ['PackInputs']
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'


COCO_DETECTORS = [n for n in CONFIGS if n.split('/')[0] in DETECTORS]


def weights_of(name: str) -> Tuple[str, Optional[Config]]:
    """A detector's pretrained weights, and the config of ours that trains them."""
    checkpoint = read(name).model.backbone.init_cfg.checkpoint
    trained = list(ROOT.glob(f'*/{Path(checkpoint).stem}.py'))
    return checkpoint, read(str(trained[0].relative_to(ROOT))) if trained else None


@pytest.mark.parametrize('name', COCO_DETECTORS)
def test_coco_data(name: str) -> None:
    cfg = read(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        resize = next(t for t in loader.dataset.pipeline if t.type == 'Resize')
        assert resize.scale == (1333, 800)
        assert resize.keep_ratio


@pytest.mark.usefixtures('no_init')
@pytest.mark.parametrize('name', COCO_DETECTORS)
def test_pretrained_weights(name: str) -> None:
    """Weights fit the backbone, and RLA is frozen if they contain it."""
    backbone = read(name).model.backbone
    init_cfg = backbone.init_cfg
    assert init_cfg.type == 'Pretrained'
    checkpoint, trained = weights_of(name)
    has_rla = trained is not None and '/rla-' in checkpoint
    assert backbone.get('freeze_rla', False) == has_rla
    if trained is None:
        depth = backbone.depth
        if '-rsb-pre_' in name:
            assert f'/resnet{depth}_8xb256-rsb-a1-600e_in1k_' in checkpoint
            assert init_cfg.prefix == 'backbone.'
        else:
            assert checkpoint == f'torchvision://resnet{depth}'
            assert 'prefix' not in init_cfg
        assert ('-pre_' in name) == (backbone.type == 'RLAResNet')
        return
    assert init_cfg.prefix == 'backbone.'
    # Detectors of several kinds have one backbone.
    _fits(
        *(
            json.dumps(dict(cfg.model.backbone, init_cfg=None), sort_keys=True)
            for cfg in (read(name), trained)
        ),
        has_rla,
    )


@functools.cache
def _fits(detector: str, classifier: str, has_rla: bool) -> None:
    """The weights of a classifier's backbone fit that of a detector."""
    own = build(json.loads(detector), 'mmdet')
    given = build(json.loads(classifier), 'mmpretrain')
    shapes, names = (
        {key: value.shape for key, value in network.state_dict().items()}
        for network in (own, given)
    )
    # A detector does not compute the classifier's last update.
    assert shapes.items() <= names.items()
    left = {key for key in names if key not in shapes}
    assert all(key.startswith('rla.3.') for key in left)
    # The wiring is recorded with the weights, and compared.
    own.load_state_dict(given.state_dict(), strict=False)
    if has_rla:
        assert own.integration == given.integration


def words(name: str) -> List[str]:
    """The parts of the network's name: rla, resnet50, no-exchange ..."""
    stem = re.split(r'_\d+xb', _stem(name))[0]
    stem = stem.replace('ecanet', 'eca-resnet').replace('mobilenet-v2', 'mobilenet')
    if name.split('/')[0] in (*DETECTORS, 'more_detectors', 'digits'):
        stem = stem.split('_')[1]
    for ablation in ABLATIONS:
        stem = re.sub(f'-{ablation}$', f' {ablation}', stem)
    head, *tail = stem.split(' ')
    return head.split('-') + tail


@functools.cache
def counted(folder: str) -> Dict[str, int]:
    """Parameters of a folder's networks, as its metafile has them."""
    models = yaml.safe_load((ROOT / folder / 'metafile.yml').read_text())['Models']
    return {m['Config']: m['Metadata']['Parameters'] for m in models}


@pytest.mark.usefixtures('no_init')
@pytest.mark.parametrize('name', CONFIGS)
def test_network(name: str) -> None:
    model = build_network(load(name))
    count = counted(name.split('/')[0])[f'configs/{name}']
    assert count == sum(p.numel() for p in model.parameters())
    if name.startswith('demo/'):
        return
    backbone = model.backbone
    parts = words(name)
    units = [m for m in backbone.modules() if isinstance(m, RLAUnit)]
    is_classifier = hasattr(model, 'head')
    is_mobile = 'mobilenet' in parts

    # The main network is that of the library whose model it is in.
    if '_cifar' not in name:
        library = 'mmpretrain' if is_classifier else 'mmdet'
        plain = next(
            c
            for c in type(backbone).__mro__
            if not (issubclass(c, RLA) or c.__module__.startswith('mmrla.'))
        )
        assert plain.__module__.split('.')[0] == library

    # RLA and its wiring: the paper's, but for what the name says.
    is_wide = any(part.startswith('channels') for part in parts)
    assert bool(units) == ('rla' in parts and not is_wide)
    if units:
        want: Dict[str, Any] = dict(
            integration='v1', cell='conv', shared=True, exchange=True
        )
        if not (is_mobile and 'released' in parts):
            want.update(*(ABLATIONS[part] for part in parts if part in ABLATIONS))
        for key, value in want.items():
            assert getattr(backbone, key) == value, key
        integration = INTEGRATIONS[want['integration']]
        assert backbone.source == integration.source
        for unit in units:
            assert unit.before_recurrence == integration.before_recurrence
        assert backbone.return_hidden == (is_classifier and not is_mobile)
    if is_mobile and units:
        cores = {id(unit.recurrent_of(0)) for unit in units}
        assert len(cores) == (1 if 'released' in parts else 5)

    # The head of a ResNet reads the last hidden state; MobileNetV2's is upstream's.
    if is_classifier:
        k = backbone.rla_channels if units and not is_mobile else 0
        plain_head = LinearClsHead if not k else RLALinearClsHead
        if not is_wide:
            assert type(model.head) is plain_head
        assert getattr(model.head, 'rla_channels', 0) == k
        head = load(name).model.head
        assert model.head.fc.in_features == head.in_channels + k

    # Attention: one module for each block, of the kind that the name says.
    kinds = [cls for key, cls in ATTENTION.items() if key in parts]
    found = [m for m in backbone.modules() if isinstance(m, tuple(ATTENTION.values()))]
    assert {type(m) for m in found} == set(kinds)
    depth = re.search(r'(?:resnet|resnext|r)(18|34|50|101|152)', '-'.join(parts))
    if depth:
        blocks = {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}[int(depth[1])]
        assert backbone.depth == int(depth[1])
        assert len(found) in (0, blocks)
    elif is_mobile:
        assert len(found) in (0, 17)

    # What is frozen: nothing of what is trained from scratch.
    model.train()
    if is_classifier or name.startswith('digits/'):
        assert all(p.requires_grad for p in model.parameters())
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        assert norms
        assert all(m.training for m in norms)
        return
    assert backbone.frozen_stages == 1
    stem = backbone.conv1, backbone.bn1, backbone.layer1
    assert not any(p.requires_grad for m in stem for p in m.parameters())
    assert any(p.requires_grad for p in backbone.layer2.parameters())
    for key, m in backbone.named_modules():
        if isinstance(m, _BatchNorm) and not key.startswith('rla.'):
            assert not m.training, key
    if units:
        # Only what was pretrained is frozen, or in eval mode.
        is_pretrained = '-pre_' not in name
        assert all(m.training != is_pretrained for u in units for m in u.norms)
        for i, unit in enumerate(units):
            is_frozen = is_pretrained and i == 0
            assert all(p.requires_grad != is_frozen for p in unit.parameters())


def _without_data(cfg: Any) -> Any:
    """Let data sets and metrics open no file when they are built."""
    if isinstance(cfg, list):
        return [_without_data(item) for item in cfg]
    cfg = copy.deepcopy(cfg)
    if 'dataset' in cfg:  # a wrapper
        cfg.dataset = _without_data(cfg.dataset)
    elif 'pipeline' in cfg:
        cfg.lazy_init = True
    if 'ann_file' in cfg and 'pipeline' not in cfg:  # CocoMetric reads it at once
        cfg.ann_file = None
    return cfg


def images_of(cfg: Config, model: BaseModel, num_items: Sequence[int] = (2, 3)) -> dict:
    """A batch of two images with labels, as a data loader gives it."""
    if cfg.default_scope == 'mmdet':
        from mmdet.testing import demo_mm_inputs

        with_mask = getattr(model, 'with_mask', False)
        size = 64 if Path(cfg.filename).parent.name != 'demo' else 160
        return demo_mm_inputs(
            2, [(3, size, size)] * 2, num_items=list(num_items), with_mask=with_mask
        )
    from mmpretrain.structures import DataSample

    size = 32 if 'cifar' in Path(cfg.filename).name else 64
    torch.manual_seed(0)
    return dict(
        inputs=torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8),
        data_samples=[DataSample().set_gt_label(i) for i in range(2)],
    )


@each
def test_step_and_prediction(name: str, tmp_path: Path) -> None:
    """Train and predict with ``_base_ = 'mmrla::FOLDER/NAME.py'``."""
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(f"_base_ = 'mmrla::{name}'\n")
    cfg = without_weights(Config.fromfile(path))
    assert cfg.default_scope == read(name).default_scope
    torch.manual_seed(0)
    model = build_network(cfg)
    model.init_weights()
    model.train()
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        for hook in cfg.get('custom_hooks') or ():
            HOOKS.build(hook)
        for part in ('train', 'val', 'test'):
            dataset = cfg[f'{part}_dataloader'].dataset
            built = DATASETS.build(_without_data(dataset))
            assert type(built).__name__ == dataset.type.split('.')[-1]
        for part in ('val', 'test'):
            METRICS.build(_without_data(cfg[f'{part}_evaluator']))
    batch = images_of(cfg, model)

    data = model.data_preprocessor(dict(batch), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(loss)
    loss.backward()
    # DDP runs with find_unused_parameters=False.
    unused = [
        key
        for key, param in model.backbone.named_parameters()
        if param.requires_grad and param.grad is None
    ]
    assert not unused
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    assert not [key for key, grad in grads.items() if not grad.isfinite().all()]
    before = {
        key: param.detach().clone()
        for key, param in model.backbone.named_parameters()
        if param.requires_grad
    }
    optim_wrapper.step()
    after = dict(model.backbone.named_parameters())
    assert any(not torch.equal(after[key], value) for key, value in before.items())

    model.eval()
    with torch.no_grad():
        results = model.val_step(batch)
    assert len(results) == 2
    for result in results:
        if cfg.default_scope == 'mmdet':
            assert result.pred_instances.bboxes.shape[1] == 4
            assert torch.isfinite(result.pred_instances.scores).all()
        else:
            assert result.pred_score.shape == (cfg.model.head.num_classes,)
            assert result.pred_score.sum() == pytest.approx(1, abs=1e-4)


#: One config of each kind of detector.
KINDS = [
    'faster_rcnn/faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py',
    'mask_rcnn/mask-rcnn_rla-r50_fpn_4xb2-1x_coco.py',
    'retinanet/retinanet_rla-r50_fpn_4xb2-1x_coco.py',
    *[name for name in CONFIGS if name.startswith('more_detectors/')],
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('integration', ['v1', 'v3'])
@pytest.mark.parametrize('name', KINDS)
def test_detectors_leave_no_parameter_unused(name: str, integration: str) -> None:
    """As DDP asks with find_unused_parameters=False, whatever is frozen.

    With objects and without: the second step fails if the first has left a
    parameter without a gradient.
    """
    import torch.distributed as dist
    from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        for frozen_stages, freeze_rla in (
            (-1, False),
            (1, False),
            (1, True),
            (4, False),
            (4, True),
        ):
            cfg = load(name)
            cfg.model.backbone.update(
                integration=integration,
                frozen_stages=frozen_stages,
                freeze_rla=freeze_rla,
                base_channels=8,
                stem_channels=8,
                rla_channels=4,
                norm_eval=True,
            )
            cfg.model.neck.in_channels = [n // 8 for n in cfg.model.neck.in_channels]
            torch.manual_seed(0)
            # RTMDet has norms that need a GPU.
            model = revert_sync_batchnorm(build_network(cfg))
            model.init_weights()
            model.train()
            with DefaultScope.overwrite_default_scope('mmdet'):
                optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
            wrapped = MMDistributedDataParallel(
                model, device_ids=None, find_unused_parameters=False
            )
            batch = images_of(cfg, model)
            empty = images_of(cfg, model, num_items=[0, 0])
            for data in (batch, empty, batch):
                losses = wrapped.train_step(data, optim_wrapper)
                assert losses['loss'].isfinite()
    finally:
        dist.destroy_process_group()
