# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA by one word: over the backbones of all text configs of mmdet and mmpretrain."""

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

#: Upstream's classes that take RLA by the word ``RLA`` before their name.
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
#: Classes that wrap a ResNet in another way.
NOT_COVERED = (
    'DetectoRS_ResNet',
    'DetectoRS_ResNeXt',
    'TridentResNet',
    'HRNet',
    'CSPResNet',
    'CSPResNeXt',
    'SparseResNet',
)
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


@pytest.fixture(scope='module')
def found() -> Found:
    """(library, backbone as JSON) to the configs that have it."""
    backbones: Found = defaultdict(list)
    for library in (mmdet, mmpretrain):
        root = Path(library.__file__).parent / '.mim/configs'
        for path in sorted(root.rglob('*.py')):
            if '_base_' in path.parts:
                continue
            try:
                cfg = Config.fromfile(path)
            except Exception:  # a few of upstream's name bases that are not there
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
    """Weights and statistics under which no block is idle and nothing grows."""
    for name, value in model.state_dict().items():
        if name.endswith(('running_var', 'weight')) and value.ndim == 1:
            value.uniform_(0.5, 1)
        elif value.ndim > 1:
            value.normal_(std=value[0].numel() ** -0.5)
        elif value.is_floating_point():
            value.normal_(std=0.1)


@pytest.mark.timeout(900)
def test_every_backbone_of_upstream_takes_rla(found: Found, no_init: None) -> None:
    """It builds, has the plain network's names, and computes what that computes."""
    torch.manual_seed(0)
    counts: Dict[str, int] = defaultdict(int)
    networks: Found = defaultdict(list)
    for (library, text), paths in found.items():
        cfg = json.loads(text)
        if _name(cfg) in COVERED:
            counts[f'{library} {_name(cfg)}'] += len(paths)
            # What changes neither network nor outputs
            for name in ('init_cfg', 'frozen_stages', 'norm_eval', 'with_cp'):
                cfg.pop(name, None)
            networks[library, json.dumps(cfg, sort_keys=True)] += paths
    wrong = []
    for (library, text), paths in networks.items():
        cfg = json.loads(text)
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
        if (
            report.unexpected_keys
            or not extra
            or not all(name.startswith('rla.') for name in extra)
            or not max(differences) < 1e-5
        ):
            wrong.append((str(paths[0]), report.unexpected_keys, differences))
    assert not wrong
    # What the pinned wheels have; fewer would mean that configs were not read.
    assert counts['mmdet ResNet'] >= 450
    assert counts['mmdet ResNeXt'] >= 97
    assert sum(n for name, n in counts.items() if name.startswith('mmpretrain')) >= 60


def test_what_is_not_covered_is_listed(found: Found) -> None:
    """README's list: classes of upstream whose names say that they are ResNets."""
    names = {_name(json.loads(text)) for _, text in found}
    residual = {name for name in names if 'Res' in name}
    assert residual - set(COVERED) <= {*NOT_COVERED, 'ResNet', 'EfficientFormer'}


def _one_of_each_folder(found: Found) -> List[Path]:
    folders: Dict[Path, Path] = {}
    for (library, text), paths in found.items():
        if library == 'mmdet' and _name(json.loads(text)) in COVERED:
            for path in paths:
                best = folders.setdefault(path.parent, path)
                # The smallest network is as good as any.
                if len(path.name) < len(best.name):
                    folders[path.parent] = path
    return sorted(folders.values())


def _step(cfg: Config) -> nn.Module:
    """A training step of a detector on images of noise."""
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
    """One word in its config: what the plain detector does, RLA's does.

    Some plain ones take no step here: an operator is not there for the CPU, or the
    detector needs data of its own. These are built.
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
