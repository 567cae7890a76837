# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The zoo by name, as upstream's interfaces use it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmrla import zoo
from mmrla.models import RLA

ROOT = Path(__file__).parents[1]


def test_every_config_has_a_name() -> None:
    files = {p.stem for p in ROOT.glob('configs/*/*.py') if p.parent.name != '_base_'}
    assert set(zoo.list_configs()) == files
    for name in zoo.list_configs('*-released*'):
        assert Path(zoo.config_path(name)).stem == name


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"'rla-resnet50'.*rla-resnet50_4xb64_in1k"):
        zoo.config_path('rla-resnet50')


def test_incomplete_installation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(zoo, '__file__', str(tmp_path / 'mmrla' / 'zoo.py'))
    with pytest.raises(FileNotFoundError, match='install it again'):
        zoo.root()


def test_mmpretrain() -> None:
    mmpretrain = pytest.importorskip('mmpretrain')
    zoo.register_models()
    zoo.register_models()
    names = mmpretrain.list_models('rla-resnet50*in1k', task='Image Classification')
    assert 'rla-resnet50-released_4xb64_in1k' in names
    assert not mmpretrain.list_models('faster-rcnn')

    model = mmpretrain.get_model(
        'rla-mobilenet-v2_2xb48_in1k', head=dict(num_classes=7)
    )
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 7)
    features = model.extract_feat(torch.rand(1, 3, 64, 64))
    assert features[0].shape == (1, 1280)


def test_image_classification_inferencer() -> None:
    mmpretrain = pytest.importorskip('mmpretrain')
    zoo.register_models()
    inferencer = mmpretrain.ImageClassificationInferencer(
        'rla-mobilenet-v2_2xb48_in1k', device='cpu'
    )
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    (result,) = inferencer(image)
    assert result['pred_scores'].shape == (1000,)
    assert isinstance(result['pred_class'], str)


def test_detectors(tmp_path: Path) -> None:
    """On a small image: the whole one takes seconds."""
    pytest.importorskip('mmdet')
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    cfg = Config.fromfile(zoo.config_path('retinanet_rla-r50_fpn_4xb2-1x_coco'))
    pipeline = cfg.test_dataloader.dataset.pipeline
    (resize,) = (step for step in pipeline if step.type == 'Resize')
    resize.scale = (96, 96)
    path = str(tmp_path / 'small.py')
    cfg.dump(path)
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    model = init_detector(path, device='cpu')
    result = inference_detector(model, image)
    assert result.pred_instances.bboxes.shape[1] == 4

    result = DetInferencer(path, device='cpu', palette='coco')(image)
    assert set(result['predictions'][0]) >= {'labels', 'scores', 'bboxes'}


def test_docstring_names_configs() -> None:
    names = re.findall(r"'([a-z0-9_-]+(?:_coco|_in1k))'", zoo.__doc__ or '')
    assert names
    assert set(names) <= set(zoo.list_configs())


@pytest.mark.usefixtures('no_init')
@pytest.mark.parametrize('page', ['new_detector', 'pretrained'])
def test_configs_on_pages_build(page: str, tmp_path: Path) -> None:
    """The pages' configs differ from upstream's in the backbone, and build."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmpretrain')
    text = (ROOT / f'docs/{page}.md').read_text()
    blocks = re.findall(r'```python\n(_base_.*?)```', text, re.DOTALL)
    assert blocks
    for block in blocks:
        path, base = tmp_path / 'config.py', tmp_path / 'base.py'
        path.write_text(block)
        base.write_text(block.splitlines()[0])
        cfg, plain = Config.fromfile(path), Config.fromfile(base)
        if cfg.default_scope == 'mmdet':  # one word
            plain.model.backbone.type = 'RLAResNet'
            assert cfg.model == plain.model
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            assert isinstance(MODELS.build(cfg.model).backbone, RLA)
    for link in re.findall(r'\]\(([^)#]+)\)', text):
        assert (ROOT / 'docs' / link).exists(), link
