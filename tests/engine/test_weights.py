# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
from typing import Any, Dict
from unittest import mock

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmrla.engine.start import untrained
from mmrla.engine.weights import (
    Arrivals,
    check_pretrained,
    load_weights,
    pretrained_cfgs,
)
from mmrla.errors import UserError
from mmrla.models import RLAResNet

from ..conftest import NEW_PARTS


class Net(nn.Module):
    """A backbone with a head, as detectors and classifiers have them."""

    def __init__(self, num_classes=2, **kwargs):
        super().__init__()
        self.backbone = RLAResNet(
            **dict(dict(depth=50, rla_channels=4, base_channels=8), **kwargs)
        )
        self.head = nn.Linear(4, num_classes)


ECA = dict(plugins=[dict(cfg=dict(type='ECALayer'), position='after_conv3')])


@pytest.mark.parametrize(
    'trained, tested, exact, loose',
    [
        (dict(depth=101), {}, 'have no place: backbone.', 'deeper network'),
        ({}, dict(depth=101), 'are missing: backbone.', 'convs are without weights'),
        (
            dict(depth=152),
            dict(depth=101),
            'have no place: backbone.',
            'deeper network',
        ),
        (
            dict(rla_channels=6),
            {},
            'shapes differ: backbone.rla.0.read.0.weight is (8, 6, 1, 1), not (8, 4',
            'backbone.rla.0.read.0.weight is (8, 6, 1, 1) in the file and (8, 4',
        ),
        (dict(base_channels=16), {}, 'shapes differ', 'no shape is the same'),
    ],
)
def test_other_networks_are_refused(no_init, trained, tested, exact, loose):
    weights = Net(**trained).state_dict()
    for is_exact, culprit in ((True, exact), (False, loose)):
        with pytest.raises(UserError) as error:
            load_weights(Net(**tested), weights, 'x.pth', is_exact)
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
def test_new_head_or_attention_may_be_trained(trained, tested):
    load_weights(Net(**tested), Net(**trained).state_dict(), 'x.pth', exact=False)


@pytest.mark.parametrize(
    'trained, tested', [({}, ECA), (ECA, {}), (dict(num_classes=7), {})]
)
def test_new_head_or_attention_is_not_tested(trained, tested):
    with pytest.raises(UserError, match='belongs to another network'):
        load_weights(Net(**tested), Net(**trained).state_dict(), 'x.pth')


def test_missing_batch_counters_fit():
    weights = Net().state_dict()
    weights = {k: v for k, v in weights.items() if 'num_batches_tracked' not in k}
    load_weights(Net(), weights, 'x.pth')


def test_missing_statistics_do_not_fit():
    weights = Net().state_dict()
    weights = {k: v for k, v in weights.items() if 'running_mean' not in k}
    with pytest.raises(
        UserError, match='are missing: backbone.rla.0.norms.0.running_mean'
    ):
        load_weights(Net(), weights, 'x.pth')


def start(model):
    """Initialise a network and check what it loaded, as a training does."""
    arrivals = Arrivals(model)
    model.init_weights()
    arrivals.close()
    check_pretrained(arrivals)
    return arrivals


def _resnet(base_channels=8, **kwargs):
    pytest.importorskip('mmdet')
    cfg = dict(dict(type='ResNet', depth=50), **kwargs)
    if cfg['type'] != 'mmdet.ResLayer':  # which has one width alone
        cfg['base_channels'] = base_channels
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


@pytest.mark.parametrize('source', ['file', 'scheme'])
@pytest.mark.parametrize(
    'form',
    [
        lambda cfg: cfg,
        lambda cfg: [dict(type='Kaiming', layer='Conv2d'), cfg],
        lambda cfg: dict(cfg, type=PretrainedInit),
    ],
)
def test_pretrained_weights_of_upstream_networks_are_checked(
    tmp_path, no_init, source, form
):
    """From any source, and before the first step."""
    path = str(tmp_path / 'x.pth')
    torch.save(_resnet(depth=18).state_dict(), path)
    checkpoint = path
    if source == 'scheme':
        checkpoint = 'judged://resnet'
        CheckpointLoader.register_scheme(
            'judged://', lambda *args, **kwargs: torch.load(path), force=True
        )
    init_cfg = form(dict(type='Pretrained', checkpoint=checkpoint))
    with pytest.raises(UserError, match='belongs to another network'):
        start(_resnet(init_cfg=init_cfg))
    start(_resnet(depth=18, init_cfg=init_cfg))


def test_forgotten_prefix_is_named(tmp_path, no_init):
    path = str(tmp_path / 'x.pth')
    weights = _resnet(depth=18).state_dict()
    torch.save({f'backbone.{n}': w for n, w in weights.items()}, path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(UserError, match="prefix='backbone.'"):
        start(_resnet(depth=18, init_cfg=init_cfg))


def test_pretrained_configs_are_found_at_any_depth():
    init_cfg = dict(type='Pretrained', checkpoint='a.pth')
    cfg = dict(
        backbone=dict(init_cfg=[dict(type='Kaiming'), init_cfg]),
        teacher=dict(backbone=dict(init_cfg=init_cfg)),
    )
    assert [key for key, _ in pretrained_cfgs(cfg, 'model')] == [
        'model.backbone.init_cfg.1',
        'model.teacher.backbone.init_cfg',
    ]


@pytest.mark.parametrize(
    'file, network, message',
    [
        (101, 50, 'deeper network: layer3.6 and 16 more blocks'),
        (50, 101, 'of 104 convs are without weights'),
        (34, 50, 'of 53 convs are without weights'),
        (50, 34, 'of 36 convs are without weights'),
    ],
)
def test_weights_of_other_depth_are_refused(tmp_path, no_init, file, network, message):
    path = str(tmp_path / 'x.pth')
    torch.save(_resnet(depth=file).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    with pytest.raises(UserError, match=message):
        start(_resnet(depth=network, init_cfg=init_cfg))


#: Networks of which a part is new beside a plain ResNet's weights.
PARTLY_NEW: Dict[str, Dict[str, Any]] = {
    **NEW_PARTS,
    'four channels': dict(in_channels=4),
    'C4 head': dict(type='mmdet.ResLayer', stage=3),
    'a part of the file': dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1)),
}


@pytest.mark.parametrize('name', PARTLY_NEW)
def test_new_parts_are_accepted(tmp_path, name):
    kwargs = dict(PARTLY_NEW[name])
    path = str(tmp_path / 'x.pth')
    is_head = name == 'C4 head'
    torch.save(_resnet(64 if is_head else 8).state_dict(), path)
    if name == 'a part of the file':
        kwargs['out_indices'] = (0, 1, 2)
    if not is_head:
        kwargs.update(frozen_stages=1, norm_eval=True)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    model = nn.Sequential()
    model.add_module('backbone', _resnet(init_cfg=init_cfg, **kwargs))
    arrivals = Arrivals(model)
    model.backbone.init_weights()
    check_pretrained(arrivals)
    assert untrained(model.train(), arrivals.arrived()[0]) == ([], [])


def test_overwritten_weights_are_reported(tmp_path, capsys):
    """As mmpretrain's zero_init_residual does after an init_cfg in a list."""
    path = str(tmp_path / 'x.pth')
    weights = _resnet(depth=18).state_dict()
    weights['layer1.0.bn2.weight'].fill_(0.5)
    torch.save(weights, path)
    model = _resnet(depth=18, init_cfg=dict(type='Pretrained', checkpoint=path))
    arrivals = Arrivals(model)
    model.init_weights()
    nn.init.zeros_(model.layer1[0].bn2.weight)
    assert arrivals.arrived()[1] == {'layer1.0.bn2.weight'}
    with mock.patch('mmrla.engine.weights.print_log') as log:
        check_pretrained(arrivals)
    assert 'layer1.0.bn2.weight' in log.call_args[0][0]


def test_ignored_init_cfg_is_refused(tmp_path):
    """A module in torch's own containers is not initialised by MMEngine."""
    init_cfg = dict(type='Pretrained', checkpoint='x.pth')
    model = nn.ModuleDict(dict(net=_resnet(depth=18, init_cfg=init_cfg)))
    with pytest.raises(UserError, match='x.pth, init_cfg of net, was not loaded'):
        check_pretrained(Arrivals(model))


def test_checkpoint_replaces_init_cfg(tmp_path, no_init):
    """load_from brings all weights, so init_cfg's need not fit."""
    path = str(tmp_path / 'x.pth')
    torch.save(_resnet(depth=101).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=path)
    model = _resnet(depth=50, init_cfg=init_cfg)
    arrivals = Arrivals(model)
    model.init_weights()
    model.load_state_dict(_resnet(depth=50).state_dict())
    check_pretrained(arrivals)
