# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Shared by the tests: tiny data sets, configs, files of released layout."""

import functools
import gc
import gzip
import importlib.util
import json
import os
import re
import socket
import sys
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
import pytest
import torch
from mmengine.config import config as config_module
from mmengine.config import utils as config_utils
from mmengine.registry import DefaultScope
from mmengine.runner import runner as runner_module
from PIL import Image

# Networks of this size gain nothing from threads, and as many tests as there are
# cores run at once.
torch.set_num_threads(1)
os.environ.setdefault('OMP_NUM_THREADS', '1')

REPO = Path(__file__).resolve().parents[1]
SIZE = 64


def load_tool(name: str, folder: str = 'tools') -> Any:
    """The module of a tool, like 'misc/update_zoo', or of a program in demo/."""
    path = REPO / folder / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'{folder}_{name}', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'path', [str(path.parent), *sys.path])  # its neighbours
        spec.loader.exec_module(module)
    return module


def write_image(path: Path) -> None:
    """A small black image, and the folders for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


@pytest.fixture(autouse=True)
def _same_default_scope():
    """Keep a runner's default scope from later tests."""
    before = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict = before


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Refuse connections and look-ups beyond this machine, and fail the test.

    Yields:
        list: What was asked for.
    """
    asked: List[str] = []
    local = ('', '127.0.0.1', '::1', 'localhost', socket.gethostname())

    def guarded(original, host_of):
        def call(*args, **kwargs):
            host = host_of(*args)
            if host is not None and host not in local:
                asked.append(str(host))
                raise OSError(f'no test may use the network: {host}')
            return original(*args, **kwargs)

        return call

    def host_of_address(sock, address):
        return None if sock.family == socket.AF_UNIX else address[0]

    connect = guarded(socket.socket.connect, host_of_address)
    monkeypatch.setattr(socket.socket, 'connect', connect)
    look_up = guarded(socket.getaddrinfo, lambda host, *args: host)
    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    yield asked
    assert not asked


@pytest.fixture(scope='session')
def tiny_coco(tmp_path_factory):
    """A COCO data set: rectangles of two colours on noise.

    Returns:
        Path: The folder, with annotations/{train,val}.json, train/ and val/.
    """
    root = tmp_path_factory.mktemp('tiny coco')  # a space, as users have them
    rng = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    for split, count in (('train', 8), ('val', 5)):
        (root / split).mkdir()
        images: List[dict] = []
        annotations: List[dict] = []
        for i in range(count):
            image = rng.integers(90, 130, (SIZE, SIZE, 3), dtype=np.uint8)
            for label, colour in enumerate([(220, 30, 30), (30, 30, 220)], start=1):
                w, h = (int(v) for v in rng.integers(18, 34, 2))
                x, y = (int(v) for v in rng.integers(0, SIZE - 34, 2))
                image[y : y + h, x : x + w] = colour
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=i,
                        category_id=label,
                        bbox=[x, y, w, h],
                        area=w * h,
                        iscrowd=0,
                        segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                    )
                )
            name = f'{i:03d}.png'
            Image.fromarray(image).save(root / split / name)
            images.append(dict(id=i, file_name=name, width=SIZE, height=SIZE))
        content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=1, name='red'), dict(id=2, name='blue')],
        )
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))
    return root


@pytest.fixture(scope='session')
def tiny_folders(tmp_path_factory):
    """A classification data set of two classes: ROOT/{train,val}/CLASS/*.png."""
    root = tmp_path_factory.mktemp('tiny folders')
    rng = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 3)):
        for label, base in (('dark', 40), ('light', 200)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-30, 30, (32, 32, 3))
                Image.fromarray((base + noise).astype(np.uint8)).save(
                    folder / f'{label}{i}.png'
                )
    return root


#: Arguments with which mmdet's ResNets have parts beside those of a plain one.
NEW_PARTS: Dict[str, Dict[str, Any]] = {
    'GCNet': dict(
        plugins=[
            dict(
                cfg=dict(type='ContextBlock', ratio=1.0 / 4),
                stages=(False, True, True, True),
                position='after_conv3',
            )
        ]
    ),
    'DCN': dict(
        dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, True, True, True),
    ),
    'DetectoRS': dict(
        type='DetectoRS_ResNet',
        sac=dict(type='SAC', use_deform=True),
        stage_with_sac=(False, True, True, True),
        conv_cfg=dict(type='ConvAWS'),
    ),
}

DETECTOR = """
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='RLAResNet', depth=50, rla_channels=4, base_channels=8),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16,
                  anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50),
                   rcnn=dict(sampler=dict(num=32))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50)))
data_root = {root!r}
metainfo = dict(classes=('red', 'blue'))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=(
        'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
def _loader(split, shuffle):
    return dict(
        batch_size=2, num_workers=0, persistent_workers=True,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        dataset=dict(
            type='CocoDataset', data_root=data_root, metainfo=metainfo,
            ann_file=f'annotations/{{split}}.json',
            data_prefix=dict(img=f'{{split}}/'),
            test_mode=not shuffle, pipeline=pipeline))
train_dataloader = _loader('train', True)
val_dataloader = test_dataloader = _loader('val', False)
val_evaluator = test_evaluator = dict(
    type='CocoMetric', ann_file=data_root + '/annotations/val.json')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1),
                     checkpoint=dict(interval=1, max_keep_ckpts=1))
randomness = dict(seed=0)
"""

CLASSIFIER = """
_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='RLAResNet', depth=50, rla_channels=4, base_channels=8,
                  stem_channels=8, return_hidden=True),
    neck=dict(type='RLANeck', rla_channels=4),
    head=dict(type='RLALinearClsHead', num_classes=2, in_channels=256,
              rla_channels=4, loss=dict(type='CrossEntropyLoss'), topk=(1,)))
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[60.0] * 3)
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
def _loader(split, shuffle):
    return dict(
        batch_size=2, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix=split,
                     pipeline=pipeline))
train_dataloader = _loader('train', True)
val_dataloader = test_dataloader = _loader('val', False)
val_evaluator = test_evaluator = dict(type='Accuracy', topk=(1,))
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
auto_scale_lr = dict(base_batch_size=256)
randomness = dict(seed=0)
"""


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope='session')
def detector_config(tiny_coco, tmp_path_factory):
    """A thin Faster R-CNN with an RLA backbone on ``tiny_coco``."""
    folder = tmp_path_factory.mktemp('configs')
    return _write(folder, 'detector.py', DETECTOR.format(root=str(tiny_coco)))


@pytest.fixture(scope='session')
def classifier_config(tiny_folders, tmp_path_factory):
    """A thin RLA-ResNet classifier on ``tiny_folders``."""
    folder = tmp_path_factory.mktemp('configs')
    return _write(folder, 'classifier.py', CLASSIFIER.format(root=str(tiny_folders)))


class ReleasedFiles:
    """Files with the layout of the released RLANet weights, and golden outputs.

    The values are not the published ones: each tensor is drawn from a generator
    that is seeded with the CRC-32 of its name. The golden outputs are what the
    released code computes with them, in float32, for standard normal images.
    """

    def __init__(self) -> None:
        text = gzip.decompress(
            (REPO / 'tests/data/released_layouts.json.gz').read_bytes()
        )
        self.layouts: Dict[str, dict] = json.loads(text)
        with np.load(REPO / 'tests/data/released_golden.npz') as golden:
            self.golden = dict(golden)
        self._weights: Dict[str, dict] = {}  # those of the last network

    @staticmethod
    def tensor(name: str, shape: List[int], tied: Optional[str] = None) -> torch.Tensor:
        """The tensor that stands for ``name``."""
        if name.endswith('num_batches_tracked'):
            return torch.tensor(0)
        seed = re.sub(tied, r'\1', name) if tied else name
        rng = np.random.RandomState(zlib.crc32(seed.encode()))
        is_scale = len(shape) == 1 and name.endswith('weight')
        if name.endswith('running_var') or is_scale:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 1:
            value = 0.1 * rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape) * np.sqrt(1.0 / np.prod(shape[1:]))
        return torch.from_numpy(value.astype(np.float32))

    def weights(self, name: str) -> Dict[str, torch.Tensor]:
        """The weights of a network, in the order of its file."""
        if name not in self._weights:
            layout = self.layouts[name]
            self._weights = {
                name: {
                    key: self.tensor(key, shape, layout['tied'])
                    for key, shape in layout['keys'].items()
                }
            }
        return dict(self._weights[name])

    def constants(self, name: str) -> Dict[str, torch.Tensor]:
        """Weights that take no memory: each tensor repeats one number of its own."""
        weights: Dict[str, torch.Tensor] = {}
        numbers: Dict[str, int] = {}
        tied = self.layouts[name]['tied']
        for key, shape in self.layouts[name]['keys'].items():
            seed = re.sub(tied, r'\1', key) if tied else key
            number = numbers.setdefault(seed, len(numbers) + 1)
            counter = key.endswith('num_batches_tracked')
            weights[key] = torch.tensor(0 if counter else number / 100).expand(shape)
        return weights

    def save(self, name: str, path: Path, constant: bool = False) -> Path:
        """Write a classification file as the released code does."""
        weights = self.constants(name) if constant else self.weights(name)
        weights = {f'module.{k}': v for k, v in weights.items()}
        torch.save(
            dict(
                epoch=120,
                arch=name,
                state_dict=weights,
                best_acc1=torch.tensor(77.17),
                optimizer=dict(state={}, param_groups=[]),
            ),
            path,
        )
        return path

    def save_detector(self, detector: str, path: Path, classes: int = 80) -> Path:
        """Write a file as MMDetection 2 did: released backbone, mmdet's own heads."""
        from mmrla.checkpoints.convert import build_model, network_config
        from mmrla.checkpoints.released import find_network

        cfg = network_config(find_network('rla_resnet50'), detector)
        cfg.model.backbone.init_cfg = None
        for part in (cfg.model, cfg.model.get('roi_head', {})):
            for head in ('bbox_head', 'mask_head'):
                if head in part:
                    part[head].num_classes = classes
        weights = {
            f'backbone.{name}': value
            for name, value in self.weights('rla_resnet50').items()
            if not name.startswith('fc.')
        }
        for name, value in build_model(cfg).state_dict().items():
            if not name.startswith('backbone.'):
                weights[name] = self.tensor(name, list(value.shape))
        torch.save(dict(meta=dict(epoch=12), state_dict=weights), path)
        return path

    def images(self, name: str) -> torch.Tensor:
        """The input of a golden output."""
        rng = np.random.RandomState(0)
        values = rng.standard_normal(self.layouts[name]['input'])
        return torch.from_numpy(values.astype(np.float32))


@pytest.fixture(scope='session')
def released():
    """Files with the layout of the released weights."""
    return ReleasedFiles()


@pytest.fixture(scope='session', autouse=True)
def fast_configs():
    """Skip slow steps of MMEngine that dominate runs this small.

    It formats a config's text with yapf each time it logs or dumps it, and for each
    `mmdet::` base it parses all of mmdet's metafiles and reloads pkg_resources. For
    each run it asks compilers for their versions.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_module, 'FormatCode', lambda text, **_: (text, True))
        patch.setattr(config_utils, 'load', functools.cache(config_utils.load))
        is_installed = functools.cache(config_module.is_installed)
        patch.setattr(config_module, 'is_installed', is_installed)
        collect_env = functools.cache(runner_module.collect_env)
        patch.setattr(runner_module, 'collect_env', collect_env)
        yield


@pytest.fixture(scope='module', autouse=True)
def _fast_collections():
    """Freeze imported modules: MMEngine collects garbage for each data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_init(monkeypatch):
    """Leave weights uninitialised: drawing them takes most of a build."""
    for name in ('kaiming_uniform_', 'uniform_', 'normal_', 'trunc_normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda x, *args, **kwargs: x)
