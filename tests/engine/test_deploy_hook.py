# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""When a test runs the deployed form, and with which weights."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from torch import nn

from mmrla.engine import DeployHook
from mmrla.models import RLAResNet


def _runner(**cfg: Any) -> Any:
    torch.manual_seed(0)
    backbone = RLAResNet(50, base_channels=8, stem_channels=8, rla_channels=4)
    model = nn.Sequential(backbone.eval())
    logger = logging.getLogger(__name__)
    return SimpleNamespace(model=model, cfg=Config(cfg), logger=logger)


def _is_deployed(model: Any) -> bool:
    return type(model[0]).__name__ == 'DeployedRLAResNet'


def test_deployed_copy_is_tested() -> None:
    runner = _runner()
    model = runner.model
    DeployHook().before_test_epoch(runner)
    assert _is_deployed(runner.model)
    assert not _is_deployed(model)


@pytest.mark.parametrize('why', ['compile', 'layer1.0'])
def test_compile_and_hooks_prevent_deploying(
    why: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner = _runner(compile=why == 'compile')
    model = runner.model
    if why == 'layer1.0':
        model[0].layer1[0].register_forward_hook(lambda *args: None)
    with caplog.at_level(logging.INFO):
        DeployHook().before_test_epoch(runner)
    assert runner.model is model
    assert not _is_deployed(model)
    assert why in caplog.text


def test_averaged_weights() -> None:
    """EMAHook swaps its weights in before the test and out after it."""
    runner = _runner()
    model = runner.model
    ema, deploy = EMAHook(), DeployHook()
    assert ema.priority == 'NORMAL'
    ema.before_run(runner)
    for p in ema.ema_model.parameters():
        p.data.mul_(1.1)
    averaged = {k: v.clone() for k, v in ema.ema_model.module.state_dict().items()}
    own = {k: v.clone() for k, v in model.state_dict().items()}
    ema.before_test_epoch(runner)
    deploy.before_test_epoch(runner)
    ema.after_test_epoch(runner)
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    model.load_state_dict(averaged)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(runner.model(x), model(x)):
            assert (a - b).abs().max() < 1e-4 * b.abs().max()


def test_model_in_ddp_wrapper(tmp_path: Any) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        runner = _runner()
        runner.model = MMDistributedDataParallel(runner.model)
        wrapper = runner.model
        DeployHook().before_test_epoch(runner)
    finally:
        torch.distributed.destroy_process_group()
    assert runner.model is wrapper
    assert _is_deployed(wrapper.module)
