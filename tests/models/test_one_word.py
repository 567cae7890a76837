# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA by one word in the backbones of all text configs of mmdet and mmpretrain."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrla.models import RLAUnit

mmdet = pytest.importorskip('mmdet')
mmpretrain = pytest.importorskip('mmpretrain')

#: Classes of upstream that take RLA by ``RLA`` before their name.
COVERED = (
    'ResNet',
    'ResNeXt',
    'ResNetV1c',
    'ResNetV1d',
    'ResNet_CIFAR',
    'RegNet',
    'Res2Net',
    'ResNeSt',
    'SEResNet',
    'SEResNeXt',
    'MobileNetV2',
)
#: Residual networks of upstream that do not.
NOT_COVERED = (
    'DetectoRS_ResNet',
    'DetectoRS_ResNeXt',
    'TridentResNet',
    'HRNet',
    'CSPResNet',
    'CSPResNeXt',
    'SparseResNet',
)
#: Configs with each class and each kind of argument: depths, styles, dilations,
#: outputs, norms, plugins, deformable and weight-standardised convs.
FEW = {
    'mmdet': (
        'retinanet/retinanet_r18_fpn_1x_coco',
        'rpn/rpn_r50-caffe-c4_1x_coco',
        'faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco',
        'detr/detr_r50_8xb2-150e_coco',
        'dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco',
        'gcnet/mask-rcnn_r50-syncbn-gcb-r4-c3-c5_fpn_1x_coco',
        'empirical_attention/faster-rcnn_r50-attn1111-dcn_fpn_1x_coco',
        'gn/mask-rcnn_r50_fpn_gn-all_2x_coco',
        'gn+ws/faster-rcnn_x50-32x4d_fpn_gn-ws-all_1x_coco',
        'regnet/retinanet_regnetx-800MF_fpn_1x_coco',
        'resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco',
        'res2net/faster-rcnn_res2net-101_fpn_2x_coco',
        'yolo/yolov3_mobilenetv2_8xb24-ms-416-300e_coco',
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco',
        'reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20',
    ),
    'mmpretrain': (
        'resnet/resnet18_8xb32_in1k',
        'resnet/resnet18_8xb16_cifar10',
        'resnet/resnet50_8xb16_cifar10',
        'resnet/resnetv1c50_8xb32_in1k',
        'resnet/resnetv1d50_8xb32_in1k',
        'resnext/resnext50-32x4d_8xb32_in1k',
        'res2net/res2net50-w14-s8_8xb32_in1k',
        'resnest/resnest50_32xb64_in1k',
        'seresnet/seresnet50_8xb32_in1k',
        'seresnet/seresnext50-32x4d_8xb32_in1k',
        'regnet/regnetx-400mf_8xb128_in1k',
        'mobilenet_v2/mobilenet-v2_8xb32_in1k',
    ),
}
#: Arguments that change neither network nor outputs.
IRRELEVANT = ('init_cfg', 'frozen_stages', 'norm_eval', 'with_cp')
Found = Dict[Tuple[str, str], List[Path]]


def _backbones(cfg: Any) -> Iterator[dict]:
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key == 'backbone' and isinstance(value, dict):
                yield value
            else:
                yield from _backbones(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            yield from _backbones(value)


def _configs(library: str) -> Path:
    module = mmdet if library == 'mmdet' else mmpretrain
    return Path(module.__file__).parent / '.mim/configs'


@pytest.fixture(scope='module')
def found() -> Found:
    """The configs of each (library, backbone as JSON)."""
    backbones: Found = defaultdict(list)
    for library in (mmdet, mmpretrain):
        for path in sorted(_configs(library.__name__).rglob('*.py')):
            if '_base_' in path.parts:
                continue
            try:
                cfg = Config.fromfile(path)
            except Exception:  # a few name bases that upstream does not have
                continue
            for backbone in _backbones(cfg.get('model')):
                key = library.__name__, json.dumps(backbone, sort_keys=True)
                if path not in backbones[key]:
                    backbones[key].append(path)
    return backbones


def _with_word(kind: str) -> str:
    scope, _, name = kind.rpartition('.')
    return f'{scope}.RLA{name}' if scope else f'RLA{name}'


def _name(backbone: dict) -> str:
    return str(backbone.get('type')).rpartition('.')[2]


def _build(cfg: dict) -> nn.Module:
    model = revert_sync_batchnorm(MODELS.build(dict(cfg)))
    model.train(False)
    return model


def _fill(model: nn.Module) -> None:
    """Draw weights and statistics with which blocks do something and nothing grows."""
    for name, value in model.state_dict().items():
        if name.endswith(('running_var', 'weight')) and value.ndim == 1:
            value.uniform_(0.5, 1)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        elif value.is_floating_point():
            value.normal_(std=0.1)


def _is_same(library: str, cfg: dict) -> bool:
    """Whether the network with RLA has the plain one's names and outputs."""
    torch.manual_seed(0)
    cfg = {key: value for key, value in cfg.items() if key not in IRRELEVANT}
    with DefaultScope.overwrite_default_scope(library):
        plain = _build(cfg)
        model = _build(dict(cfg, type=_with_word(cfg['type'])))
    _fill(model)
    _fill(plain)
    weights = plain.state_dict()
    extra = set(model.state_dict()) - set(weights)
    report = model.load_state_dict(weights, strict=False)
    x = torch.randn(1, cfg.get('in_channels', 3), 96, 128)
    with torch.no_grad():
        differences = [
            ((a - b).abs().max() / b.abs().max()).item()
            for a, b in zip(model(x), plain(x))
        ]
    return (
        not report.unexpected_keys
        and bool(extra)
        and all(name.startswith('rla.') for name in extra)
        and max(differences) < 1e-5
    )


@pytest.mark.usefixtures('no_init')
@pytest.mark.parametrize(
    ('library', 'name'), [(key, name) for key, names in FEW.items() for name in names]
)
def test_each_kind_of_backbone_takes_rla(library: str, name: str) -> None:
    cfg = Config.fromfile(_configs(library) / f'{name}.py')
    backbones = list(_backbones(cfg.model))
    assert backbones
    for backbone in backbones:
        assert _name(backbone) in COVERED
        assert _is_same(library, backbone)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures('no_init')
def test_every_backbone_of_upstream_takes_rla(found: Found) -> None:
    counts: Dict[str, int] = defaultdict(int)
    networks: Found = defaultdict(list)
    for (library, text), paths in found.items():
        cfg = json.loads(text)
        if _name(cfg) in COVERED:
            counts[f'{library} {_name(cfg)}'] += len(paths)
            for name in IRRELEVANT:
                cfg.pop(name, None)
            networks[library, json.dumps(cfg, sort_keys=True)] += paths
    wrong = [
        str(paths[0])
        for (library, text), paths in networks.items()
        if not _is_same(library, json.loads(text))
    ]
    assert not wrong
    # In the pinned versions; fewer would mean that configs were not read.
    assert counts['mmdet ResNet'] >= 450
    assert counts['mmdet ResNeXt'] >= 97
    assert sum(n for name, n in counts.items() if name.startswith('mmpretrain')) >= 60
    assert {name.split(' ')[1] for name in counts} == set(COVERED)


@pytest.mark.slow
def test_all_others_are_listed(found: Found) -> None:
    """Other classes with Res in their names, as README lists them."""
    names = {_name(json.loads(text)) for _, text in found}
    residual = {name for name in names if 'Res' in name}
    assert residual - set(COVERED) <= {*NOT_COVERED, 'ResNet', 'EfficientFormer'}


def _one_of_each_folder(found: Found) -> List[Path]:
    folders: Dict[Path, Path] = {}
    for (library, text), paths in found.items():
        if library == 'mmdet' and _name(json.loads(text)) in COVERED:
            for path in paths:
                best = folders.setdefault(path.parent, path)
                # Any will do; short names mean small networks.
                if len(path.name) < len(best.name):
                    folders[path.parent] = path
    return sorted(folders.values())


def _step(cfg: Config) -> nn.Module:
    """Run a training step of a detector on noise."""
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        images = [[3, 128, 128]] * 2
        data = demo_mm_inputs(2, images, with_mask=True, with_semantic=True)
        data = model.data_preprocessor(data, True)
        losses = model.loss(data['inputs'], data['data_samples'])
        model.parse_losses(losses)[0].backward()
    return model


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_detector_of_each_folder_takes_a_step(found: Found) -> None:
    """With one word in its config, unless the plain detector fails in the same way.

    Some plain ones do: they have an operator without a CPU form or need other data.
    """
    failures, stepped = {}, 0
    paths = _one_of_each_folder(found)
    for path in paths:
        plain, cfg = Config.fromfile(path), Config.fromfile(path)
        for backbone in [*_backbones(plain.model), *_backbones(cfg.model)]:
            backbone['init_cfg'] = None
        for detector in (plain.model, cfg.model):
            if 'teacher_ckpt' in detector:  # a URL
                detector.teacher_ckpt = None
        for backbone in _backbones(cfg.model):
            if _name(backbone) in COVERED:
                backbone['type'] = _with_word(backbone['type'])
        try:
            model = _step(cfg)
            unit = next(m for m in model.modules() if isinstance(m, RLAUnit))
            assert unit.compress[0].weight.grad.abs().sum() > 0
            stepped += 1
        except Exception as error:
            try:
                _step(plain)
            except Exception as same:
                if type(same) is type(error):
                    continue
            failures[path.name] = repr(error)[:300]
    print(f'{stepped} of {len(paths)} detectors took a step')
    assert not failures, '\n'.join(f'{k}: {v}' for k, v in failures.items())
    assert stepped >= 40
