# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Exported networks give torch's outputs in other runtimes."""

import sys
from typing import Any

import numpy as np
import pytest
import torch

from mmrla.analysis.benchmark import Form, compare
from mmrla.analysis.runtimes import RUNTIMES, export, open_session, profile, quantise
from mmrla.errors import UserError
from mmrla.models import RLAResNet
from mmrla.models.fused import switch_to_deploy

from .test_benchmark import _config

pytest.importorskip('onnx')


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_outputs_and_profile(runtime: str) -> None:
    pytest.importorskip(runtime)
    torch.manual_seed(0)
    model = RLAResNet(depth=50, base_channels=8, stem_channels=8, rla_channels=4)
    images = torch.randn(2, 3, 48, 64)
    kernels = {}
    for name, network in (
        ('as is', model.eval()),
        ('deployed', switch_to_deploy(model)),
    ):
        how = runtime, export(network, images), images.numpy(), 1
        with torch.no_grad():
            expected = network(images)
        got = open_session(*how)()
        assert len(got) == len(expected) == 4
        for a, b in zip(got, expected):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * b.abs().max().item())
        kernels[name], seconds = profile(*how)
        assert any('Conv' in operator for operator in seconds)
        assert 0 < sum(seconds.values()) < 10
    assert kernels['as is'] > kernels['deployed'] >= 53 + 3 * 15


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_compare(runtime: str) -> None:
    pytest.importorskip('mmpretrain')
    pytest.importorskip(runtime)
    cfgs = dict(plain=_config(rla_channels=0), rla=_config())
    form = Form(form='deployed', batch_size=1, shape=(32, 32), runtime=runtime)
    first, second = compare(cfgs, form, rounds=3, warmup=1)
    assert first.ratio == 1 < second.kernels / first.kernels < 3
    assert first.memory is None is second.memory_ratio


@pytest.mark.parametrize('runtime', RUNTIMES)
def test_int8(runtime: str) -> None:
    """Of a deployed network: near float32, with operators of int8."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip(runtime)
    torch.manual_seed(0)
    model = RLAResNet(depth=18, base_channels=8, stem_channels=8, rla_channels=4)
    images = torch.randn(2, 3, 48, 64)
    content = export(switch_to_deploy(model), images)
    quantised = quantise(content, [images.numpy()])
    assert len(quantised) < 0.5 * len(content)
    how = images.numpy(), 1
    expected = open_session(runtime, content, *how)()
    for a, b in zip(open_session(runtime, quantised, *how)(), expected):
        assert 0 < np.linalg.norm(a - b) < 0.2 * np.linalg.norm(b)
    if runtime == 'onnxruntime':
        # Maps with two readers, too: C1 and the block's end, the read and the pooling.
        assert not {'Conv', 'Add'} & set(profile(runtime, quantised, *how)[1])


def test_missing_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    images: Any = np.zeros((1, 3, 32, 32), np.float32)
    with pytest.raises(UserError, match=r'openvino .*mmrla\[runtimes\]'):
        open_session('openvino', b'', images, 1)
