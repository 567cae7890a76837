# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""RLA over MobileNetV2: the network written out, and real ImageNet weights."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint
from PIL import Image

from mmrla.models.backbones.mobilenet_v2 import convs_of

from .written_out import norm, norms, randomise, recurrence

pytest.importorskip('mmpretrain')
REPO = Path(__file__).parents[3]


def _build(library: str = 'mmpretrain', **kwargs: Any) -> Any:
    torch.manual_seed(0)
    type_ = 'RLAMobileNetV2' if library == 'mmdet' else f'{library}.RLAMobileNetV2'
    kwargs = dict(widen_factor=0.25, rla_channels=3, **kwargs)
    return MODELS.build(dict(type=type_, **kwargs))


@pytest.mark.parametrize('library', ['mmdet', 'mmpretrain'])
@pytest.mark.parametrize(
    'kwargs', [{}, dict(recurrent_conv='depthwise', tied=True)], ids=['paper', 'tied']
)
def test_forward_is_the_equation(library: str, kwargs: dict) -> None:
    """Depthwise and linear conv of concat(z, h), block by block."""
    if library == 'mmdet':
        pytest.importorskip('mmdet')
    model = _build(library, out_indices=(6, 7), **kwargs).eval()
    randomise(model)
    images = torch.randn(2, 3, 64, 64)
    strides = [s for _, _, n, s in model.arch_settings]
    with torch.no_grad():
        got = model(images)
        x = model.conv1(images)
        h = x.new_zeros(2, 3, 32, 32)
        for i, layer in enumerate(model.layers_of_blocks):
            for t, block in enumerate(layer):
                unit, step = model.unit_of(i, t)
                stride = strides[i] if t == 0 else 1
                *expand, depthwise, linear = convs_of(block)
                read = unit.read[step]
                z = expand[0](x) if expand else x
                z = torch.cat((z, h), 1)
                weight = torch.cat((depthwise.conv.weight, read.depthwise.weight))
                z = F.conv2d(z, weight, None, stride, 1, groups=z.shape[1])
                z = F.relu6(norms(depthwise.norm, read.norm, z))
                weight = torch.cat((linear.conv.weight, read.pointwise.weight), 1)
                y = norm(linear.norm, F.conv2d(z, weight))
                x = x + y if stride == 1 and x.shape == y.shape else y
                h = recurrence(unit, step, y, h, stride if step == 0 else 1)
        last = model.rla[-1].last
        both = torch.cat((x, F.relu6(norm(last.norm, h))), 1)
        weight = torch.cat((model.conv2.conv.weight, last.conv.weight), 1)
        end = F.relu6(norm(model.conv2.norm, F.conv2d(both, weight)))
    torch.testing.assert_close(got[0], x)
    torch.testing.assert_close(got[1], end)


def test_layers_of_one_resolution_share_a_unit() -> None:
    model = _build()
    assert [unit.num_blocks for unit in model.rla] == [1, 2, 3, 4 + 3, 3 + 1]
    assert [len(unit.compress) for unit in model.rla] == [1, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(integration='v5'), r"integration='v5' is not one of 'v1', .*'v4'$"),
        (dict(recurrent_conv='dense'), r"recurrent_conv='dense' is not one of 'full'"),
        (dict(tied=True, shared=False), r'tied=True needs shared=True'),
        (dict(tied=True, cell='convgru'), r"cell='convgru'"),
    ],
)
def test_wrong_arguments_name_the_allowed_ones(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _build(**kwargs)


def test_real_weights_classify_photographs(tmp_path: Path) -> None:
    """A plain checkpoint gives the plain network and RLA's the expected classes."""
    data = REPO.parent / 'shared/data'
    if not (data / 'mobilenet_v2_imagenet.npz').is_file():
        pytest.skip('needs the weights in ../shared/data')
    script = runpy.run_path(str(REPO / 'projects/evidence/make_weights.py'))
    with np.load(data / 'mobilenet_v2_imagenet.npz') as archive:
        weights = script['mobilenet_v2'](archive)
    torch.save(dict(state_dict=weights), tmp_path / 'plain.pth')
    labels = (data / 'mobilenet_v2_labels.txt').read_text().splitlines()
    expected = dict(cat='Egyptian cat', dragonfly='dragonfly', hot_dog='hotdog')
    expected.update(bird='chickadee', dog='soft-coated wheaten terrier')
    for name in ('MobileNetV2', 'RLAMobileNetV2'):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(
                dict(
                    type='ImageClassifier',
                    backbone=dict(type=name),
                    neck=dict(type='GlobalAveragePooling'),
                    head=dict(type='LinearClsHead', num_classes=1001, in_channels=1280),
                )
            )
        load_checkpoint(model, str(tmp_path / 'plain.pth'))
        model.eval()
        for photo, label in expected.items():
            image = Image.open(data / f'photos/{photo}.jpg').convert('RGB')
            pixels = np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))
            x = torch.from_numpy((pixels.astype(np.float32) - 128) / 128)
            with torch.no_grad():
                scores = model(x.permute(2, 0, 1)[None])
            assert labels[int(scores.argmax())].split(',')[0] == label
