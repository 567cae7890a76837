# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""What the READMEs show works when pasted, and what they name exists."""

import re
from pathlib import Path
from typing import List

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope
from torch import nn

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


def test_deployed_form() -> None:
    from mmrla.models import RLAResNet

    (block,) = (block for block in _blocks() if 'deploy' in block)
    scope = dict(model=RLAResNet(50, base_channels=8, rla_channels=4))
    exec(block, scope)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = scope['model'].eval()(x)[0]
        torch.testing.assert_close(scope['deployed'](x)[0], expected)


def test_inherited_config(tmp_path: Path) -> None:
    """configs/README.md: a config of ours as the base of one elsewhere."""
    text = (ROOT / 'configs/README.md').read_text()
    (block,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    path = tmp_path / 'config.py'
    path.write_text(block)
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'RLAResNet'
    assert model.roi_head.bbox_head.num_classes == 3


@pytest.mark.parametrize('folder', ['faster_rcnn', 'mask_rcnn', 'retinanet'])
def test_options_from_scratch(folder: str) -> None:
    """configs/README.md: nothing that was never trained is frozen, or in eval."""
    text = (ROOT / 'configs/README.md').read_text()
    options = dict(
        re.findall(r'(model\.backbone\.\w+)=(\S+)', text.split('### From scratch')[1])
    )
    (path,) = ROOT.glob(f'configs/{folder}/*_rla-r50_fpn_4xb2-1x_coco.py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(
        {key: DictAction._parse_iterable(v) for key, v in options.items()}
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    assert all(param.requires_grad for param in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.training for m in norms)


def test_links_and_paths_exist() -> None:
    links = [link for link in re.findall(r'\]\(([^)#]+)\)', TEXT) if ':' not in link]
    paths = re.findall(r'(?:tools|mmrla|docs|demo)/[\w/]+\.(?:py|sh|md)', TEXT)
    missing = [p for p in {*links, *paths} if not (ROOT / p).exists()]
    assert not missing
