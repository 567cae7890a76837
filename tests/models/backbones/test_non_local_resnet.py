# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The baseline "+1 NL": a ResNet of mmdet and one block more."""

import copy
from typing import Any

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmrla  # noqa: F401  (registers the models)

pytest.importorskip('mmdet')


def _build(kind: str, **kwargs: Any) -> nn.Module:
    cfg = dict(type=kind, depth=50, base_channels=4, stem_channels=4, **kwargs)
    model = MODELS.build(cfg)
    model.eval()  # mmdet's does not return itself
    return model


def test_starts_as_the_plain_network() -> None:
    torch.manual_seed(0)
    plain = _build('mmdet.ResNet')
    model = _build('NonLocalResNet')
    model.init_weights()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {key.split('.')[2] for key in missing} == {'non_local'}
    assert {key.split('.')[:2][0] for key in missing} == {'layer3'}

    x = torch.rand(1, 3, 65, 96)
    with torch.no_grad():
        for ours, theirs in zip(model(x), plain(x)):
            torch.testing.assert_close(ours, theirs)
        model.layer3[-2].non_local.conv_out.conv.weight.fill_(0.1)
        outs = model(x)
        # The block before the last of the third stage: the first two see nothing.
        for ours, theirs, same in zip(outs, plain(x), (True, True, False, False)):
            assert torch.equal(ours, theirs) == same


def test_copies_have_a_block_of_their_own() -> None:
    model = _build('NonLocalResNet')
    twin = copy.deepcopy(model)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x)[-1]
        twin.layer3[-2].non_local.conv_out.conv.weight.fill_(0.1)
        torch.testing.assert_close(model(x)[-1], before)
        assert not torch.allclose(twin(x)[-1], before)


def test_every_parameter_gets_a_gradient() -> None:
    model = _build('NonLocalResNet', norm_eval=False)
    model.train()
    sum(out.sum() for out in model(torch.rand(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_needs_the_third_stage() -> None:
    stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    with pytest.raises(ValueError, match='num_stages=2 is not in the range 3 to 4'):
        _build('NonLocalResNet', **stages)
