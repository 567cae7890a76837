# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Converted files compute what the released code computes, and go back to it."""

import inspect
import io
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrla.checkpoints.arch import ReleasedArch, recognise
from mmrla.checkpoints.convert import (
    configs_folder,
    convert,
    read_source,
    rla_arch_for,
)
from mmrla.checkpoints.detectors import BASES, head_shapes
from mmrla.checkpoints.export import export
from mmrla.checkpoints.files import CheckpointError, load_file
from mmrla.checkpoints.published import PUBLISHED, find_published
from mmrla.checkpoints.published import TOLERANCE as TOLERANCE_OF
from mmrla.checkpoints.verify import build as build_network
from mmrla.checkpoints.verify import verify
from mmrla.models.backbones.base import RLABackbone

LAYOUTS = (
    'rla_resnet50',
    'rla_resnet50_eca',
    'dsrla_mobilenetv2_k32',
    'rla_resnext50_32x4d_se',
    'rlaus_resnet50',
    'rlav2_resnet50',
    'rlav5_resnet50',
    'rlalstm_resnet50',
    'rla_resnet50@residual',
)
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('released')


@pytest.fixture(scope='module')
def resnet50(released, folder):
    """A file of rla_resnet50, and what it becomes."""
    path = folder / 'resnet50_rla_2283.pth.tar'
    released.save('rla_resnet50', path, constant=True)
    return path, convert(path)


def build(checkpoint, cfg=None):
    """The network of a converted checkpoint; loads with strict=True."""
    return build_network(checkpoint, 'converted.pth', cfg)


def assert_same(found, expected):
    """Equal tensors, by dtype, shape and bytes, under equal names in equal order."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize('name', LAYOUTS)
def test_outputs_are_golden_and_the_way_back_is_exact(released, folder, name):
    path = released.save(name, folder / 'file.pth.tar')

    converted = convert(path)

    assert converted.arch.name == name
    model = build(converted.checkpoint)
    images = released.images(name)
    report = verify(model, name, images, released.golden)
    expected = [n for n in released.golden if n == name or n.startswith(f'{name}:')]
    assert sorted(report.differences) == sorted(expected)
    assert max(report.differences.values()) <= TOLERANCE

    back = export(converted.checkpoint).checkpoint
    # All that the file has, the optimizer's state excepted.
    assert list(back) == ['epoch', 'arch', 'state_dict', 'best_acc1']
    assert (back['epoch'], back['arch']) == (120, name)
    assert float(back['best_acc1']) == pytest.approx(77.17)
    weights = {f'module.{n}': v for n, v in released.weights(name).items()}
    assert_same(back['state_dict'], weights)


def test_wrong_wiring_does_not_give_the_golden_outputs(released, folder):
    # The comparison above would be worth nothing if the wiring did not matter.
    path = released.save('rla_resnet50', folder / 'file.pth.tar')
    model = build(convert(path, 'rla_resnet50@residual').checkpoint)
    images = released.images('rla_resnet50')
    report = verify(model, 'rla_resnet50', images, released.golden)
    assert report.differences['rla_resnet50'] > 100 * TOLERANCE


def test_meta_says_where_the_weights_are_from(released, resnet50):
    path, converted = resnet50
    meta = converted.checkpoint['meta']
    assert meta['source']['name'] == path.name
    assert len(meta['source']['sha256']) == 64
    assert meta['arch'] == 'rla_resnet50'
    assert meta['wiring'] == dict(integration='v3', cell='conv', act='ReLU')
    assert meta['published'] == {'file': path.name[:-8], 'top-1 error (%)': 22.83}
    assert len(meta['dataset_meta']['classes']) == 1000
    assert meta['dataset_meta']['classes'][65] == 'sea snake'
    assert 'optimizer' not in converted.checkpoint


def test_converted_checkpoint_is_plain_data(resnet50):
    file = io.BytesIO()
    torch.save(resnet50[1].checkpoint, file)
    file.seek(0)
    torch.load(file, weights_only=True)


def test_config_of_the_zoo_loads_the_weights(resnet50):
    _, converted = resnet50
    cfg = Config.fromfile(configs_folder() / converted.config)
    model = build(converted.checkpoint, cfg)
    assert model.backbone.integration == 'v3'


@pytest.mark.parametrize(
    'prefix, wrap',
    [
        ('', lambda weights: weights),
        ('module.', lambda weights: weights),
        ('backbone.', lambda weights: dict(state_dict=weights)),
        ('module.backbone.', lambda weights: dict(model=weights, epoch=3)),
    ],
)
def test_prefixes_and_containers(released, folder, resnet50, prefix, wrap):
    weights = {f'{prefix}{n}': v for n, v in released.constants('rla_resnet50').items()}
    path = folder / 'other.pth'
    torch.save(wrap(weights), path)

    converted = convert(path)

    assert_same(
        converted.checkpoint['state_dict'], resnet50[1].checkpoint['state_dict']
    )
    back = export(converted.checkpoint).checkpoint
    assert list(back) == list(wrap(weights))
    assert_same(back.get('state_dict', back.get('model', back)), weights)


def test_name_in_the_file_that_is_not_known_is_noted(released, folder):
    path = folder / 'mine.pth'
    torch.save(dict(arch='mine', state_dict=released.constants('rlaus_resnet50')), path)
    converted = convert(path)
    assert converted.arch.name == 'rlaus_resnet50'
    assert "'mine'" in converted.notes[0]
    # A name that the user gives is not passed over.
    with pytest.raises(CheckpointError, match="'mine' names no released network"):
        convert(path, 'mine')


def test_export_without_a_record_gives_the_published_names(released, resnet50):
    path, converted = resnet50
    trained_here = dict(state_dict=converted.checkpoint['state_dict'])
    exported = export(trained_here)
    assert exported.arch == 'rla_resnet50'
    assert exported.notes == ()
    assert_same(exported.checkpoint['state_dict'], load_file(path)['state_dict'])


def test_export_of_the_papers_wiring_says_so(released, folder):
    path = folder / 'file.pth.tar'
    released.save('rla_resnet50@residual', path, constant=True)
    weights = convert(path).checkpoint['state_dict']
    exported = export(dict(state_dict=weights))
    assert exported.arch == 'rla_resnet50@residual'
    assert 'the released code does not compute' in exported.notes[0]


@pytest.mark.parametrize('name', ['dsrla_mobilenetv2_k32', 'rlaus_resnet50'])
def test_export_of_other_families(released, folder, name):
    path = released.save(name, folder / 'file.pth.tar', constant=True)
    exported = export(dict(state_dict=convert(path).checkpoint['state_dict']))
    assert exported.arch == name
    assert_same(exported.checkpoint['state_dict'], load_file(path)['state_dict'])


def test_export_refuses_what_the_released_code_has_not():
    with pytest.raises(CheckpointError, match='no checkpoint of mmrla'):
        export(dict(epoch=1))
    with pytest.raises(CheckpointError, match='no checkpoint of an RLA network'):
        export(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}))
    network = MODELS.build(dict(type='RLAMobileNetV2', return_hidden=True))
    weights = {f'backbone.{n}': v for n, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match='has no name in the released'):
        export(dict(state_dict=weights))  # a unit for each stage
    network = MODELS.build(dict(type='RLAResNet', depth=50, deep_stem=True))
    weights = {f'backbone.{n}': v for n, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match='ResNet-D'):
        export(dict(state_dict=weights))
    network = MODELS.build(
        dict(type='RLAResNet', depth=50, shared=False, integration='v6')
    )
    weights = {f'backbone.{n}': v for n, v in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="integration='v6'"):
        export(dict(state_dict=weights))


# --- detection ----------------------------------------------------------------


def mmdet_model(detector):
    """mmdet's own detector with a plain ResNet-50, in its config's words."""
    name = BASES[detector][0]
    cfg = Config.fromstring(f"_base_ = 'mmdet::_base_/models/{name}.py'\n", '.py')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('detector', BASES)
def test_heads_are_those_of_mmdet(detector):
    own = {
        name: tuple(value.shape)
        for name, value in mmdet_model(detector).state_dict().items()
        if not name.startswith('backbone.')
    }
    assert head_shapes(detector, 80, (256, 512, 1024, 2048)) == own


def detection_file(released, path, detector, num_classes=80, constant=True):
    """A file as MMDetection 2.10 wrote it."""
    name = 'rla_resnet50'
    weights = released.constants(name) if constant else released.weights(name)
    weights = {f'backbone.{n}': v for n, v in weights.items()}
    shapes = head_shapes(detector, num_classes, (256, 512, 1024, 2048))
    for i, (key, shape) in enumerate(shapes.items()):
        weights[key] = torch.tensor(i / 100).expand(shape)
    meta = dict(mmdet_version='2.10.0', epoch=12, CLASSES=tuple('ab') * 40)
    torch.save(
        dict(
            meta=meta,
            state_dict=weights,
            optimizer=dict(state={0: dict(momentum_buffer=torch.zeros(5))}),
        ),
        path,
    )
    return path


@pytest.mark.parametrize('detector', BASES)
def test_detection_file(released, folder, detector):
    path = detection_file(released, folder / 'det.pth', detector)

    converted = convert(path)

    assert (converted.detector, converted.arch.name) == (detector, 'rla_resnet50')
    published = find_published('rla_resnet50', detector)
    assert published is not None
    assert converted.published is published
    assert converted.config == published.config
    # The released code's backbone has parts that a detector does not use.
    weights = converted.checkpoint['state_dict']
    assert 'backbone.layer4.rla.norms.1.weight' in weights
    assert 'backbone.layer4.rla.norms.2.weight' not in weights
    build(converted.checkpoint)
    zoo = Config.fromfile(configs_folder() / published.config)
    assert build(converted.checkpoint, zoo).backbone.frozen_stages == 1

    original = load_file(path)
    back = export(converted.checkpoint).checkpoint
    assert list(back) == ['meta', 'state_dict']
    assert back['meta'] == original['meta']
    assert_same(back['state_dict'], original['state_dict'])


def test_stage_outputs_of_a_detector_are_golden(released, folder):
    path = detection_file(released, folder / 'det.pth', 'retinanet', constant=False)
    model = build(convert(path).checkpoint)
    images = released.images('rla_resnet50')
    report = verify(model, 'rla_resnet50', images, released.golden)
    assert sorted(report.differences) == [f'rla_resnet50:feat{i}' for i in range(4)]
    assert max(report.differences.values()) <= TOLERANCE


def test_detector_that_was_trained_here_goes_out_with_a_whole_backbone(
    released, folder
):
    path = detection_file(released, folder / 'det.pth', 'retinanet')
    weights = convert(path).checkpoint['state_dict']
    exported = export(dict(state_dict=weights)).checkpoint['state_dict']
    original = load_file(path)['state_dict']
    unused = ('backbone.bn2.', 'backbone.fc.', 'backbone.stage_bns.3.2.')
    assert_same(
        {n: v for n, v in exported.items() if not n.startswith(unused)},
        {n: v for n, v in original.items() if not n.startswith(unused)},
    )
    # What the released code computes and drops: any norm will do.
    assert exported['backbone.stage_bns.3.2.weight'].tolist() == [1.0] * 32


def test_order_of_a_file_is_kept_and_its_heads_must_fit(released, folder):
    path = detection_file(released, folder / 'det.pth', 'faster_rcnn')
    content = load_file(path)
    content['state_dict'] = dict(reversed(content['state_dict'].items()))
    torch.save(content, path)
    back = export(convert(path).checkpoint).checkpoint
    assert_same(back['state_dict'], content['state_dict'])

    content['state_dict']['neck.extra.weight'] = torch.zeros(1)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match='neck.extra.weight is no weight of fast'):
        convert(path)


def test_detector_of_other_classes(released, folder):
    path = detection_file(released, folder / 'det.pth', 'mask_rcnn', num_classes=3)
    converted = convert(path)
    assert converted.published is None
    assert 'dataset_meta' not in converted.checkpoint['meta']
    model = build(converted.checkpoint)
    assert model.roi_head.mask_head.num_classes == 3


def test_task_that_the_file_is_not_for_is_refused(released, folder, resnet50):
    with pytest.raises(CheckpointError, match=r'--task det, but .* a classifier'):
        convert(resnet50[0], task='det')
    path = detection_file(released, folder / 'det.pth', 'retinanet')
    with pytest.raises(CheckpointError, match=r'--task cls, but .* a detector'):
        convert(path, task='cls')


def test_unknown_heads_and_backbones_alone_are_refused(released, folder):
    weights = released.constants('rla_resnet50')
    path = folder / 'other.pth'
    named = {f'backbone.{n}': v for n, v in weights.items()}
    torch.save({**named, 'bbox_head.conv_cls.weight': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r'heads \(bbox_head\) are none of'):
        convert(path)
    torch.save({n: v for n, v in named.items() if '.fc.' not in n}, path)
    with pytest.raises(CheckpointError, match='has a backbone alone'):
        convert(path)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda w: w.pop('stages.1.2.bn3.running_var'),
            '1 weights are missing, the first: '
            'backbone.layer2.blocks.2.bn3.running_var',
        ),
        (
            lambda w: w.update({'stages.0.1.bn2.weight': torch.ones(65)}),
            r'backbone.layer1.blocks.1.bn2.weight is \(65,\) instead of \(64,\)',
        ),
        (lambda w: w.pop('bn2.weight'), 'BN of the last state'),
        (lambda w: w.update(extra=torch.ones(1)), 'extra is no weight of'),
        (lambda w: w.update(epoch=3), 'holds no weights'),
        (lambda w: w.clear(), 'holds no weights'),
    ],
)
def test_incomplete_and_wrong_weights_are_refused(released, folder, change, message):
    weights = released.constants('rla_resnet50')
    change(weights)
    path = folder / 'wrong.pth'
    torch.save(dict(arch='rla_resnet50', state_dict=weights), path)
    with pytest.raises(CheckpointError, match=f'wrong.pth: .*{message}'):
        convert(path)


def test_batch_counters_may_be_missing(released, folder, resnet50):
    weights = released.constants('rla_resnet50')
    old = {n: v for n, v in weights.items() if not n.endswith('num_batches_tracked')}
    path = folder / 'old.pth'
    torch.save(old, path)
    converted = convert(path)
    assert_same(
        converted.checkpoint['state_dict'], resnet50[1].checkpoint['state_dict']
    )
    assert_same(export(converted.checkpoint).checkpoint, old)


def test_converted_file_is_refused_as_a_source(folder, resnet50):
    path = folder / 'mmrla.pth'
    torch.save(resnet50[1].checkpoint, path)
    with pytest.raises(CheckpointError, match='has the names of mmrla already'):
        read_source(path)


# --- published files and configs ------------------------------------------------


def with_defaults(backbone):
    """A backbone's config with every argument written out."""
    cls = MODELS.get(backbone['type'])
    arguments = {}
    for kind in (RLABackbone, cls):
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                arguments[name] = parameter.default
    arguments.update(backbone)
    for name in ('init_cfg', 'norm_cfg', 'zero_init_residual'):
        arguments.pop(name, None)
    return {
        k: tuple(v) if k.endswith(('indices', 'ations', 'strides')) else v
        for k, v in arguments.items()
    }


@pytest.mark.parametrize(
    'entry',
    [
        # The detectors' backbones are the same in each.
        pytest.param(e, marks=pytest.mark.slow)
        if e.detector in ('mask_rcnn', 'retinanet')
        else e
        for e in PUBLISHED
    ],
    ids=lambda entry: entry.name,
)
def test_config_of_each_published_file_has_its_network(released, entry):
    layouts = released.layouts
    base = 'dsrla_mobilenetv2_k32' if entry.arch.startswith('ds') else 'rla_resnet50'
    if entry.arch == 'rla_resnet50_eca':
        base = entry.arch
    shapes = {n: tuple(s) for n, s in layouts[base]['keys'].items()}
    arch = recognise(shapes)
    args = dict(arch.args)
    if '101' in entry.arch:
        args['depth'] = 101
    if entry.arch.endswith('_eca') and not arch.attention:
        kernels = (1, 1, 1, 1, 3, 3, 3)
        args['attention'] = dict(type='ECALayer')
        if arch.family == 'mobilenet_v2':
            args['attention'] = [dict(type='ECALayer', kernel_size=k) for k in kernels]
    arch = ReleasedArch(**{**vars(arch), 'args': args, 'name': entry.arch})

    cfg = Config.fromfile(configs_folder() / entry.config)
    found, expected = cfg.model.to_dict(), arch.backbone_cfg(entry.task)
    assert with_defaults(found['backbone']) == with_defaults(expected)
    if entry.task == 'cls':
        assert (
            found['head']['in_channels'] == arch.classifier_cfg()['head']['in_channels']
        )
        assert found['neck'].get('act_cfg') == arch.neck_cfg().get('act_cfg')


def test_published_table():
    assert len(PUBLISHED) == len({entry.name for entry in PUBLISHED}) == 18
    assert [e.name for e in PUBLISHED if e.paper] == [
        'ecanet101_rla_2100',
        'dsrla_mobilenetv2_k32_2762',
    ]
    for entry in PUBLISHED[:6]:
        # The file's name ends with its error in hundredths of a percent.
        assert entry.scores[0][1] == int(entry.name[-4:]) / 100


def test_page_has_the_published_table():
    page = (Path(__file__).parents[2] / 'docs/published_weights.md').read_text()
    rows = [line.split(' | ') for line in page.splitlines() if line.startswith('| ')]
    rows = [row for row in rows if row[1].endswith('.py')]
    assert [(row[0][2:], *row[1:3], row[3][:-2]) for row in rows] == [
        (e.name, e.config, e.describe(), f'{TOLERANCE_OF[e.scores[0][0]]:g}')
        for e in PUBLISHED
    ]


# --- starting from a ResNet -----------------------------------------------------


def resnet(base=8, **kwargs):
    """mmpretrain's classifier, a thin one, with statistics as after a training."""
    torch.manual_seed(0)
    backbone = dict(type='ResNet', depth=50, out_indices=(0, 1, 2, 3))
    backbone.update(base_channels=base, stem_channels=base, **kwargs)
    if backbone['type'] == 'ResNeXt':
        del backbone['base_channels']
    head = dict(type='LinearClsHead', num_classes=10, in_channels=32 * base, topk=(1,))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=dict(type='GlobalAveragePooling'),
                head=head,
            )
        )
    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif name.endswith('running_mean'):
            value.normal_(0, 0.1)
    return model.eval()


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    'kwargs, arch, names',
    [
        (dict(), None, 'mmpretrain'),
        (dict(), 'rla_resnet50', 'torchvision'),
        (dict(), 'rlalstm_resnet50', 'torchvision'),
        (dict(), 'rlaus_resnet50', 'torchvision'),
        (dict(type='ResNetV1d'), None, 'mmpretrain'),
        (
            dict(type='ResNeXt', base=64, groups=32, width_per_group=4),
            None,
            'mmpretrain',
        ),
    ],
)
def test_start_from_a_resnet_computes_what_it_computed(folder, kwargs, arch, names):
    plain = resnet(**kwargs)
    weights = plain.state_dict()
    if names == 'torchvision':
        weights = {n.replace('backbone.', ''): v for n, v in weights.items()}
        weights = {n.replace('head.fc', 'fc'): v for n, v in weights.items()}
    path = folder / 'resnet.pth'
    torch.save(dict(state_dict=weights), path)

    converted = convert(path, arch, from_resnet=True)

    assert converted.arch.integration == ('v3' if arch and 'us' not in arch else 'v1')
    # Neither a thin network nor ResNet-D is that of a config.
    has_config = kwargs.get('type') == 'ResNeXt'
    assert (converted.config is not None) == has_config
    model = build(converted.checkpoint)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, expected = model.backbone(images), plain.backbone(images)
        for found, wanted in zip(features, expected):
            assert relative(found, wanted) < 1e-6
        assert relative(model(images), plain(images)) < 1e-6
        # The hidden state is there, but nothing reads it yet.
        assert features[-1].abs().max() > 0


def test_gradient_reaches_the_rla_part_of_a_started_network(folder):
    path = folder / 'resnet.pth'
    torch.save(resnet().state_dict(), path)
    model = build(convert(path, from_resnet=True).checkpoint).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    # The first step moves the zeros, the second one what is behind them.
    without = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()
    ]
    assert without == []


def test_start_is_the_same_each_time(folder):
    path = folder / 'resnet.pth'
    torch.save(resnet().state_dict(), path)
    first, second = (convert(path, from_resnet=True).checkpoint for _ in range(2))
    assert_same(first['state_dict'], second['state_dict'])


def test_start_from_a_detector(folder):
    plain = mmdet_model('faster_rcnn').eval()
    path = folder / 'faster.pth'
    torch.save(plain.state_dict(), path)
    converted = convert(path, from_resnet=True)
    assert converted.config == 'faster_rcnn/faster-rcnn_rla-r50_fpn_4xb2-1x_coco.py'
    model = build(converted.checkpoint)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for found, wanted in zip(
            model.extract_feat(images), plain.extract_feat(images)
        ):
            assert relative(found, wanted) < 1e-6


def test_start_from_other_networks_is_refused(released, resnet50):
    with pytest.raises(CheckpointError, match='needs a plain ResNet or ResNeXt'):
        convert(resnet50[0], from_resnet=True)
    plain = ReleasedArch('', 'resnet', (3, 4, 6, 3), (256, 512, 1024, 2048), 0)
    plain = ReleasedArch(**{**vars(plain), 'args': dict(depth=50)})
    for name, message in [
        ('rla_resnet50_eca', 'without attention modules'),
        ('resnet50_k', 'makes an RLA-ResNet'),
        ('dsrla_mobilenetv2_k32', 'makes an RLA-ResNet'),
        ('rla_resnet101', 'a ResNet of depth 50'),
        ('rla_resnext50_32x4d', 'a ResNet of depth 50 and 1 groups'),
    ]:
        with pytest.raises(CheckpointError, match=message):
            rla_arch_for(plain, name)
    assert rla_arch_for(plain).name == 'rla_resnet50@residual'
