# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmrla.engine.weights import check_pretrained, check_weights, pretrained_cfgs
from mmrla.errors import UserError
from mmrla.models import RLAResNet


class Net(nn.Module):
    """A backbone with a head, as detectors and classifiers have them."""

    def __init__(self, num_classes=2, **kwargs):
        super().__init__()
        args = dict(depth=50, rla_channels=4, base_channels=8, stem_channels=8)
        self.backbone = RLAResNet(**{**args, 'out_indices': (0, 1, 2, 3), **kwargs})
        self.head = nn.Linear(4, num_classes)


ECA = dict(attention=dict(type='ECALayer'))


@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize(
    'trained, tested, culprit',
    [
        (dict(depth=101), {}, 'layer3.rla.norms.6.weight'),
        ({}, dict(depth=101), 'are missing: backbone.layer3'),
        (dict(depth=152), dict(depth=101), 'have no place: backbone.layer2'),
        (dict(rla_channels=6), {}, 'is (6, 32, 1, 1), not (4, 32, 1, 1)'),
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
    with pytest.raises(UserError, match='are missing: backbone.bn1.running_mean'):
        check_weights(Net(), weights, 'x.pth')


def test_pretrained_weights_under_another_name_are_refused(tmp_path):
    path = str(tmp_path / 'x.pth')
    torch.save(Net().state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='encoder')
    with pytest.raises(UserError, match="nothing under 'encoder.'"):
        check_pretrained(Net(init_cfg=init_cfg))
    check_pretrained(Net(init_cfg=dict(init_cfg, prefix='backbone.')))


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
