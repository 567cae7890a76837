# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmrla.engine.weights import check_weights, pretrained_cfgs, watch_pretrained
from mmrla.errors import UserError
from mmrla.models import RLAResNet


class Net(nn.Module):
    """A backbone with a head, as detectors and classifiers have them."""

    def __init__(self, num_classes=2, **kwargs):
        super().__init__()
        self.backbone = RLAResNet(
            **dict(dict(depth=50, rla_channels=4, base_channels=8), **kwargs)
        )
        self.head = nn.Linear(4, num_classes)


ECA = dict(plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')])


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize(
    'trained, tested, culprit',
    [
        (dict(depth=101), {}, 'have no place: backbone.'),
        ({}, dict(depth=101), 'are missing: backbone.'),
        (dict(depth=152), dict(depth=101), 'have no place: backbone.'),
        (
            dict(rla_channels=6),
            {},
            'shapes differ: backbone.rla.0.read.0.weight is (8, 6, 1, 1), not (8, 4',
        ),
        (dict(base_channels=16), {}, 'shapes differ'),
    ],
)
def test_other_networks_are_refused(trained, tested, culprit, exact):
    with pytest.raises(UserError) as error:
        check_weights(Net(**tested), Net(**trained).state_dict(), 'x.pth', exact)
    assert culprit in str(error.value)
    assert 'x.pth' in str(error.value)


@pytest.mark.parametrize(
    'trained, tested',
    [
        ({}, {}),
        (dict(return_hidden=True), {}),  # a classifier's, for detection
        ({}, ECA),
        (ECA, {}),
        (dict(num_classes=7), {}),
        (dict(rla_channels=0), {}),  # a plain network's
    ],
)
def test_a_new_head_or_an_attention_module_may_be_trained(trained, tested):
    check_weights(Net(**tested), Net(**trained).state_dict(), 'x.pth', exact=False)


@pytest.mark.parametrize(
    'trained, tested', [({}, ECA), (ECA, {}), (dict(num_classes=7), {})]
)
def test_but_not_tested(trained, tested):
    with pytest.raises(UserError, match='belongs to another network'):
        check_weights(Net(**tested), Net(**trained).state_dict(), 'x.pth')


def test_old_files_without_counters_fit():
    weights = Net().state_dict()
    weights = {k: v for k, v in weights.items() if 'num_batches_tracked' not in k}
    check_weights(Net(), weights, 'x.pth')


def test_missing_statistics_do_not_fit():
    weights = Net().state_dict()
    weights = {k: v for k, v in weights.items() if 'running_mean' not in k}
    with pytest.raises(
        UserError, match='are missing: backbone.rla.0.norms.0.running_mean'
    ):
        check_weights(Net(), weights, 'x.pth')


def _resnet(**kwargs):
    pytest.importorskip('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(dict(type='ResNet', depth=50), **kwargs))


@pytest.mark.parametrize('source', ['file', 'scheme'])
@pytest.mark.parametrize(
    'form',
    [
        lambda cfg: cfg,
        lambda cfg: [dict(type='Kaiming', layer='Conv2d'), cfg],
        lambda cfg: dict(cfg, type=PretrainedInit),
    ],
)
def test_what_upstreams_networks_load_is_judged(tmp_path, no_init, source, form):
    """Whatever the source: when it arrives, before anything is trained."""
    path = str(tmp_path / 'x.pth')
    torch.save(_resnet(depth=18).state_dict(), path)
    checkpoint = path
    if source == 'scheme':
        checkpoint = 'judged://resnet'
        CheckpointLoader.register_scheme(
            'judged://', lambda *args, **kwargs: torch.load(path), force=True
        )
    init_cfg = form(dict(type='Pretrained', checkpoint=checkpoint))
    wrong = _resnet(init_cfg=init_cfg)
    watch_pretrained(wrong)
    with pytest.raises(UserError, match='belongs to another network'):
        wrong.init_weights()
    right = _resnet(depth=18, init_cfg=init_cfg)
    watch_pretrained(right)
    right.init_weights()


def test_a_forgotten_prefix_is_named(tmp_path, no_init):
    path = str(tmp_path / 'x.pth')
    weights = _resnet(depth=18).state_dict()
    torch.save({f'backbone.{n}': w for n, w in weights.items()}, path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    model = _resnet(depth=18, init_cfg=init_cfg)
    watch_pretrained(model)
    with pytest.raises(UserError, match="prefix='backbone.'"):
        model.init_weights()


def test_pretrained_configs_are_found_wherever_they_are():
    init_cfg = dict(type='Pretrained', checkpoint='a.pth')
    cfg = dict(
        backbone=dict(init_cfg=[dict(type='Kaiming'), init_cfg]),
        teacher=dict(backbone=dict(init_cfg=init_cfg)),
    )
    assert [key for key, _ in pretrained_cfgs(cfg, 'model')] == [
        'model.backbone.init_cfg.1',
        'model.teacher.backbone.init_cfg',
    ]
