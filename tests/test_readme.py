# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What the README shows works when pasted, and what it names exists."""

import re
from pathlib import Path
from typing import List

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()


def _blocks() -> List[str]:
    return re.findall(r'```python\n(.*?)```', TEXT, re.DOTALL)


def _config(tmp_path: Path, needle: str) -> Config:
    (block,) = (block for block in _blocks() if needle in block)
    path = tmp_path / 'config.py'
    path.write_text(block)
    return Config.fromfile(path)


def test_new_detector(tmp_path: Path) -> None:
    pytest.importorskip('mmdet')
    cfg = _config(tmp_path, '_base_')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'RLAResNet'
    with torch.no_grad():
        features = model.extract_feat(torch.rand(1, 3, 64, 64))
    assert [f.shape[1] for f in features] == [256] * 5


def test_classifier(tmp_path: Path) -> None:
    pytest.importorskip('mmpretrain')
    cfg = _config(tmp_path, "type='ImageClassifier'")
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.eval()
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_deployed_form() -> None:
    from mmrla.models import RLAResNet

    (block,) = (block for block in _blocks() if 'deploy' in block)
    scope = dict(model=RLAResNet(50, base_channels=8, rla_channels=4))
    exec(block, scope)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = scope['model'].eval()(x)[0]
        torch.testing.assert_close(scope['deployed'](x)[0], expected)


def test_links_and_paths_exist() -> None:
    links = [link for link in re.findall(r'\]\(([^)#]+)\)', TEXT) if ':' not in link]
    paths = re.findall(r'(?:tools|mmrla|docs|demo)/[\w/]+\.(?:py|sh|md)', TEXT)
    missing = [p for p in {*links, *paths} if not (ROOT / p).exists()]
    assert not missing
