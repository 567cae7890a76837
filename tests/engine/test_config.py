# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmrla.engine import config
from mmrla.engine.layout import build_dataset
from mmrla.errors import UserError


def leaf(**kwargs):
    return dict(dict(type='CocoDataset', ann_file='a.json'), **kwargs)


WRAPPED = {
    'repeated': (dict(type='RepeatDataset', dataset=leaf()), ['d.dataset']),
    'balanced': (dict(type='ClassBalancedDataset', dataset=leaf()), ['d.dataset']),
    'concatenated': (
        dict(type='ConcatDataset', datasets=[leaf(), leaf()]),
        ['d.datasets.0', 'd.datasets.1'],
    ),
    'deep': (
        dict(
            type='RepeatDataset',
            dataset=dict(type='ConcatDataset', datasets=[leaf()]),
        ),
        ['d.dataset.datasets.0'],
    ),
    'plain': (leaf(), ['d']),
}


@pytest.mark.parametrize('dataset, keys', WRAPPED.values(), ids=list(WRAPPED))
def test_datasets_are_found_in_wrappers(dataset, keys):
    assert [key for key, _ in config.leaf_datasets(dataset, 'd')] == keys


def whole(dataset, scope='mmdet'):
    """A config with nothing but a training set."""
    text = dict(default_scope=scope, train_dataloader=dict(dataset=dataset))
    return Config(text)


@pytest.mark.parametrize('name', ['repeated', 'balanced', 'concatenated', 'deep'])
def test_missing_files_are_found_in_wrappers(name):
    dataset, keys = WRAPPED[name]
    key = keys[0].replace('d.', 'train_dataloader.dataset.', 1)
    with pytest.raises(UserError, match=f'a.json does not .* {key}.ann_file=FILE'):
        build_dataset(whole(dataset), 'train')


def test_missing_root_without_download():
    dataset = dict(type='CIFAR10', data_root='nowhere', split='train', download=False)
    with pytest.raises(UserError, match='data root nowhere'):
        build_dataset(whole(dataset, 'mmpretrain'), 'train')


def test_missing_backend_package_is_named():
    dataset = leaf(data_root='s3://bucket/', data_prefix=dict(img='train/'))
    with pytest.raises(UserError, match='ImportError'):
        build_dataset(whole(dataset), 'train')


def test_tilde_is_expanded_in_data_paths_only(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', '/home/x')
    (tmp_path / 'a.py').write_text(
        "train_dataloader = dict(dataset=dict(datasets=[dict(data_root='~/d')]))\n"
        "test_evaluator = dict(ann_file='~/a.json')\nname = '~'"
    )
    cfg = config.load_config(str(tmp_path / 'a.py'))
    assert cfg.train_dataloader.dataset.datasets[0].data_root == '/home/x/d'
    assert cfg.test_evaluator.ann_file == '/home/x/a.json'
    assert cfg.name == '~'


@pytest.mark.parametrize(
    'scope, model, expected',
    [
        (None, 'mmdet.FasterRCNN', 'mmdet'),
        (None, 'mmpretrain.ImageClassifier', 'mmpretrain'),
        ('mmpretrain', 'mmdet.SoftTeacher', 'mmdet'),
        ('mmdet', 'RetinaNet', 'mmdet'),
        ('mmpretrain', None, 'mmpretrain'),
    ],
)
def test_library_of_model_type(scope, model, expected):
    pytest.importorskip(expected)
    cfg = Config(dict(default_scope=scope, model=model and dict(type=model)))
    assert config.library(cfg) == expected


def test_library_of_model_class():
    base = pytest.importorskip('mmdet.models.detectors').FasterRCNN
    mine = type('Mine', (base,), {})
    assert config.library(Config(dict(model=dict(type=mine)))) == 'mmdet'


@pytest.mark.parametrize(
    'scope, workers, collate, persistent',
    [
        ('mmdet', 2, None, None),
        ('mmdet', 0, None, False),
        ('mmpretrain', 2, dict(type='default_collate'), True),
        ('mmpretrain', 0, dict(type='default_collate'), False),
    ],
)
def test_dataloader_defaults_of_library(scope, workers, collate, persistent):
    loader = dict(num_workers=workers)
    cfg = Config(dict(default_scope=scope, val_dataloader=loader))
    config.set_dataloader_defaults(cfg)
    assert cfg.val_dataloader.get('collate_fn') == collate
    assert cfg.val_dataloader.get('persistent_workers') == persistent
    assert 'train_dataloader' not in cfg


def test_dataloader_settings_are_kept():
    loader = dict(num_workers=2, collate_fn='mine', persistent_workers=False)
    cfg = Config(dict(default_scope='mmpretrain', train_dataloader=dict(loader)))
    config.set_dataloader_defaults(cfg)
    assert {k: cfg.train_dataloader[k] for k in loader} == loader


def test_amp(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    config.set_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    cfg.optim_wrapper.loss_scale = 512.0
    config.set_amp(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.0


@pytest.mark.parametrize('given', [dict(base_batch_size=8), dict(enable=False)])
def test_auto_scale_lr_needs_base_batch_size(given, tmp_path):
    path = tmp_path / 'a.py'
    path.write_text(f'auto_scale_lr = {given}')
    cfg = config.load_config(str(path))
    if 'base_batch_size' not in given:
        with pytest.raises(UserError, match='a.py does not say for which batch size'):
            config.set_auto_scale_lr(cfg)
    else:
        config.set_auto_scale_lr(cfg)
        assert cfg.auto_scale_lr.enable


SAFE = 'mmrla.SafeCheckpointHook'


@pytest.mark.parametrize(
    'hooks, kind',
    [
        (None, SAFE),
        (dict(timer=dict(type='IterTimerHook')), SAFE),
        (dict(checkpoint=dict(type='CheckpointHook', interval=5)), SAFE),
        (dict(checkpoint=dict(type='mmengine.CheckpointHook')), SAFE),
        (dict(checkpoint=dict(type=CheckpointHook)), SAFE),
        (dict(checkpoint=dict(interval=5)), SAFE),
        (dict(checkpoint=dict(type='MyHook')), 'MyHook'),
        (dict(checkpoint=None), None),
    ],
)
def test_safe_checkpoint_hook_replaces_mmengines(hooks, kind):
    cfg = Config({} if hooks is None else dict(default_hooks=hooks))
    config.set_safe_checkpoints(cfg)
    hook = cfg.default_hooks.checkpoint
    assert (hook and hook.type) == kind


def test_work_dir_precedence(tmp_path):
    for given, own, expected in (
        ('a', 'b', 'a'),
        (None, 'b', 'b'),
        (None, None, './work_dirs/name'),
    ):
        path = tmp_path / 'name.py'
        path.write_text(f'work_dir = {own!r}')
        cfg = config.load_config(str(path))
        config.set_work_dir(cfg, given)
        assert cfg.work_dir == expected


@pytest.mark.parametrize('ending', ['', '.py'])
def test_own_configs_load_by_name(ending, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config.load_config(f'rla-resnet110_1xb128_cifar10{ending}')
    assert cfg.filename.endswith('configs/cifar/rla-resnet110_1xb128_cifar10.py')


@pytest.mark.parametrize(
    'path, message',
    [
        ('rla-resnet110_1xb128_cifar', 'is rla-resnet110_1xb128_cifar10 meant'),
        ('no/rla-resnet110_1xb128_cifar10.py', 'is rla-resnet110_1xb128_cifar10 meant'),
        ('x.py', 'does not exist; the ones of mmrla are in configs/'),
        ('.', 'is a folder, not a file'),
    ],
)
def test_missing_configs(path, message):
    with pytest.raises(UserError, match=message):
        config.load_config(path)
