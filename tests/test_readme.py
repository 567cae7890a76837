# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The code in the READMEs works, and the files that they name exist."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmrla.checkpoints.released import PUBLISHED

ROOT = Path(__file__).parents[1]
#: A score that links to its file.
LINK = r'\[([\d.]+)\]\((https://drive[^)]+)\)'
#: A file that a page names, from the top of the repository.
PATH = r'(?<![\w/])(?:tools|mmrla|docs|demo|configs)/[\w/.-]+\.(?:py|sh|md)\b'
TEXT = (ROOT / 'README.md').read_text()


def _block(page: str, needle: str) -> str:
    """The Python block of a page that has these words."""
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / page).read_text(), re.DOTALL)
    (block,) = (block for block in blocks if needle in block)
    return block


def _config(tmp_path: Path, needle: str) -> Config:
    block = _block('README.md', needle)
    path = tmp_path / 'config.py'
    path.write_text(block)
    return Config.fromfile(path)


@pytest.mark.usefixtures('no_init')
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

    block = _block('docs/performance.md', 'deployed =')
    scope = dict(model=RLAResNet(50, base_channels=8, rla_channels=4))
    exec(block, scope)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = scope['model'].eval()(x)[0]
        torch.testing.assert_close(scope['deployed'](x)[0], expected)


@pytest.mark.usefixtures('no_init')
def test_inherited_config(tmp_path: Path) -> None:
    """configs/README.md: a config outside inherits one of ours."""
    path = tmp_path / 'config.py'
    path.write_text(_block('configs/README.md', '_base_'))
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == 'RLAResNet'
    assert model.roi_head.bbox_head.num_classes == 3


@pytest.mark.usefixtures('no_init')
def test_options_from_scratch() -> None:
    """configs/README.md: no part is frozen or in eval mode."""
    text = (ROOT / 'configs/README.md').read_text()
    options = dict(
        re.findall(r'(model\.backbone\.\w+)=(\S+)', text.split('### From scratch')[1])
    )
    (path,) = ROOT.glob('configs/retinanet/*_rla-r50_fpn_4xb2-1x_coco.py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(
        {key: DictAction._parse_iterable(v) for key, v in options.items()}
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    model.train()
    assert all(param.requires_grad for param in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.training for m in norms)


def test_published_links_match_table() -> None:
    """README: each of the 18 links, with the score of its file."""
    links = {link: score for score, link in re.findall(LINK, TEXT)}
    assert links == {
        p.link: f'{p.scores[0][1]:.{1 if p.detector else 2}f}' for p in PUBLISHED
    }


PAGES = [
    path.relative_to(ROOT)
    for pattern in ('*.md', 'docs/*.md', 'configs/**/*.md', 'projects/**/*.md')
    for path in sorted(ROOT.glob(pattern))
]


def test_links_and_paths_exist() -> None:
    missing = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        links = re.findall(r'\]\(([^)#\s]+)[^)]*\)', text)
        paths = [ROOT / page.parent / link for link in links if ':' not in link]
        paths += [ROOT / path for path in re.findall(PATH, text)]
        missing += [(str(page), str(path)) for path in paths if not path.exists()]
    assert len(PAGES) > 20
    assert not missing
