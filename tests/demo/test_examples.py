# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The programs in demo/, on files with the layout of the released ones."""

import functools
import json
import re
from typing import List

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config

from mmrla.analysis.plots import class_colours
from mmrla.checkpoints import convert as convert_module
from mmrla.checkpoints.convert import convert, convert_once
from mmrla.engine.checkpoint_io import save_file
from mmrla.errors import UserError

from ..tools.conftest import call, isolated

#: All of them load weights.
pytestmark = pytest.mark.usefixtures('no_init')


def example(name):
    """A function that runs a program of demo/ in this process."""
    return functools.partial(call, name, folder='demo')


def shrink(cfg):
    """Small images and few detections."""
    (resize,) = (s for s in cfg.test_dataloader.dataset.pipeline if s.type == 'Resize')
    resize.scale = (96, 96)
    cfg.model.test_cfg.rpn.max_per_img = 20
    cfg.model.test_cfg.rcnn.update(max_per_img=3, score_thr=0.0)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of pictures and one other file."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for name, shape in (('a.png', (48, 64, 3)), ('b.jpg', (60, 40, 3))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, shape, dtype=np.uint8))
    (folder / 'notes.txt').write_text('no picture')
    return folder


@pytest.fixture(scope='module')
def classifier(released, tmp_path_factory):
    folder = tmp_path_factory.mktemp('classifier')
    src = released.save('dsrla_mobilenetv2_k32', folder / 'released.pth.tar')
    save_file(convert(src).checkpoint, folder / 'mmrla.pth')
    return folder / 'mmrla.pth'


@pytest.fixture(scope='module')
def detector(released, tmp_path_factory):
    """A Mask R-CNN with small images and few detections."""
    folder = tmp_path_factory.mktemp('detector')
    path = released.save_detector('mask_rcnn', folder / 'released.pth')
    checkpoint = convert(path).checkpoint
    cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    shrink(cfg)
    checkpoint['meta']['cfg'] = cfg.pretty_text
    save_file(checkpoint, folder / 'mmrla.pth')
    return folder / 'mmrla.pth'


def test_classify_folder_and_image(classifier, photos, tmp_path, capsys):
    example('classify_image')(
        classifier,
        photos,
        photos / 'a.png',
        '--batch-size',
        2,
        '--device',
        'cpu',
        '--out-dir',
        tmp_path / 'out',
    )
    # Wherever upstream's progress bar has left the cursor.
    lines = re.findall(f'{re.escape(str(photos))}.*', capsys.readouterr().out)
    assert len(lines) == 3
    # The same image gets the same class, alone and in a batch.
    assert lines[0] == lines[2]
    assert len(list((tmp_path / 'out').iterdir())) >= 2


def test_detect_in_folder(detector, photos, tmp_path, capsys):
    example('detect_image')(
        detector,
        photos,
        '--batch-size',
        2,
        '--device',
        'cpu',
        '--score-thr',
        0,
        '--out-dir',
        tmp_path,
    )
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(f'{photos}/') for line in lines) == 2
    for name in ('a.png', 'b.jpg'):
        assert cv2.imread(str(tmp_path / 'vis' / name)) is not None
    assert len(list((tmp_path / 'preds').glob('*.json'))) == 2


def test_palette_of_own_classes(detector, photos, tmp_path, monkeypatch):
    """Own classes are not drawn in COCO's colours, of which the first two are reds."""
    from mmdet.datasets import CocoDataset
    from mmdet.visualization import DetLocalVisualizer

    checkpoint = torch.load(detector)
    meta = dict(classes=('a', 'b', 'c'), palette=CocoDataset.METAINFO['palette'])
    checkpoint['meta']['dataset_meta'] = meta
    save_file(checkpoint, tmp_path / 'own.pth')
    palettes = []
    draw = DetLocalVisualizer.add_datasample

    def add_datasample(self, *args, **kwargs):
        palettes.append(self.dataset_meta['palette'])
        draw(self, *args, **kwargs)

    monkeypatch.setattr(DetLocalVisualizer, 'add_datasample', add_datasample)
    files = tmp_path / 'own.pth', photos / 'a.png', '--out-dir', tmp_path
    example('detect_image')(*files, '--device', 'cpu', '--score-thr', 2)
    assert palettes == [class_colours(3)]


@pytest.fixture
def small_networks(monkeypatch):
    """Let converted configs use small images and keep few detections."""
    build = convert_module.network_config

    def small(network, detector=None):
        cfg = build(network, detector)
        if detector is not None:
            shrink(cfg)
        return cfg

    monkeypatch.setattr(convert_module, 'network_config', small)


def test_published_detector_is_converted_once(
    released, photos, tmp_path, capsys, small_networks
):
    """A downloaded file is converted on first use; the next call reuses the result."""
    path = released.save_detector(
        'mask_rcnn', tmp_path / 'mask_rcnn_r50rla_fpn_1x_coco_395.pth'
    )
    before = path.read_bytes()
    detect = functools.partial(
        example('detect_image'), path, photos / 'a.png', '--device', 'cpu'
    )
    detect('--score-thr', 0, '--out-dir', tmp_path / 'found')
    result = tmp_path / 'mask_rcnn_r50rla_fpn_1x_coco_395.mmrla.pth'
    assert path.read_bytes() == before
    assert cv2.imread(str(tmp_path / 'found/vis/a.png')) is not None
    assert len(json.loads((tmp_path / 'found/preds/a.json').read_text())['labels']) == 3
    meta = torch.load(result, weights_only=True)['meta']
    assert meta['published'] == {
        'file': path.stem,
        'box AP': 39.5,
        'mask AP': 35.6,
    }

    # The next call uses the conversion.
    written = result.stat().st_mtime_ns
    detect()
    assert result.stat().st_mtime_ns == written
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [result.name, path.name]


def test_stale_or_torn_conversion_is_redone(released, tmp_path):
    """So is a conversion of another file or by another version."""
    path = released.save('dsrla_mobilenetv2_k32', tmp_path / 'released.pth.tar', True)
    result = convert_once(path)
    assert result == tmp_path / 'released.mmrla.pth'
    whole = result.read_bytes()
    meta = torch.load(result, weights_only=True)['meta']
    wrong: List[dict] = [
        dict(meta=dict(meta, mmrla_version='0')),
        dict(meta=dict(meta, source=dict(sha256='0'))),
        dict(state_dict={}),
    ]
    for content in (b'PK', *wrong):
        if isinstance(content, bytes):
            result.write_bytes(content)
        else:
            save_file(content, result)
        convert_once(path)
        assert result.read_bytes() == whole
    assert convert_once(result) == result


def test_published_classifier_is_converted(released, photos, tmp_path, capsys):
    path = released.save('dsrla_mobilenetv2_k32', tmp_path / 'released.pth.tar', True)
    example('classify_image')(path, photos / 'a.png', '--device', 'cpu')
    assert (tmp_path / 'released.mmrla.pth').is_file()
    assert re.search(r'a\.png: .+ \(\d\.\d{3}\)', capsys.readouterr().out)


def test_unwritable_conversion_names_tool(released, tmp_path):
    path = released.save('dsrla_mobilenetv2_k32', tmp_path / 'released.pth.tar', True)
    (tmp_path / 'released.mmrla.pth').mkdir()
    with pytest.raises(UserError, match=r'rlanet_to_mmrla\.py'):
        convert_once(path)


@pytest.mark.parametrize(
    'names', [['backbone.stages.0.0.norm.weight'], ['conv1.weight'], ['rla.0.wiring']]
)
def test_other_checkpoints_are_not_converted(tmp_path, names):
    path = tmp_path / 'x.pth'
    torch.save(dict(state_dict={name: torch.zeros(1) for name in names}), path)
    assert convert_once(path) == path
    assert len(list(tmp_path.iterdir())) == 1


def test_inferencer_from_checkpoint_alone(detector, photos, tmp_path):
    with isolated():
        inferencer = DetInferencer(weights=str(detector), device='cpu')
        result = inferencer(str(photos / 'a.png'), out_dir=str(tmp_path))
    assert len(result['predictions'][0]['labels']) == 3
    assert (tmp_path / 'vis/a.png').is_file()
    assert inferencer.model.dataset_meta['classes'][0] == 'person'


def test_detect_in_video(detector, photos, tmp_path, capsys):
    video = cv2.VideoWriter(
        str(tmp_path / 'in.avi'), cv2.VideoWriter.fourcc(*'MJPG'), 5, (64, 48)
    )
    for _ in range(2):
        video.write(cv2.imread(str(photos / 'a.png')))
    video.release()
    out = tmp_path / 'out.mp4'

    example('detect_video')(detector, tmp_path / 'in.avi', out, '--device', 'cpu')

    assert 'written: ' in capsys.readouterr().out
    assert int(cv2.VideoCapture(str(out)).get(cv2.CAP_PROP_FRAME_COUNT)) == 2


def test_features_of_classifier(classifier, photos, tmp_path):
    example('extract_features')(
        classifier, photos, '--out-dir', tmp_path, '--device', 'cpu'
    )
    with np.load(tmp_path / 'a.npz') as features:
        assert {name: value.shape for name, value in features.items()} == {
            'stage0': (16, 112, 112),
            'stage1': (24, 56, 56),
            'stage2': (32, 28, 28),
            'stage3': (64, 14, 14),
            'stage4': (96, 14, 14),
            'stage5': (160, 7, 7),
            'stage6': (320, 7, 7),
            'stage7': (1280, 7, 7),
            'vector': (1280,),
        }
    assert (tmp_path / 'b.npz').is_file()


def test_features_of_detector(detector, photos, tmp_path):
    example('extract_features')(
        detector, photos / 'a.png', '--out-dir', tmp_path, '--device', 'cpu'
    )
    with np.load(tmp_path / 'a.npz') as features:
        assert [value.shape[0] for value in features.values()] == [256, 512, 1024, 2048]


@pytest.mark.parametrize('name', ['classify_image', 'extract_features'])
def test_bad_inputs_give_one_line(classifier, photos, tmp_path, capsys, name):
    bare = tmp_path / 'bare.pth'
    torch.save(dict(state_dict={}), bare)
    (tmp_path / 'empty').mkdir()
    for args, message in [
        ([classifier, photos / 'none.png'], 'no such file or folder'),
        ([classifier, photos / 'notes.txt'], 'cannot be read as an image'),
        ([classifier, tmp_path / 'empty'], 'has no images'),
        ([tmp_path / 'none.pth', photos], 'does not exist'),
        ([bare, photos], 'carries no config'),
    ]:
        with pytest.raises(SystemExit) as ended:
            example(name)(*args, '--out-dir', tmp_path / 'out', '--device', 'cpu')
        assert ended.value.code in (1, 2)
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1]
        assert not any('Traceback' in line for line in lines)


def test_bad_video_gives_one_line(detector, photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        example('detect_video')(detector, photos / 'notes.txt', tmp_path / 'out.mp4')
    assert ended.value.code == 2
    assert 'cannot be read as a video' in capsys.readouterr().err


@pytest.mark.parametrize(
    'name, wrong',
    [('detect_image', 'classifier'), ('classify_image', 'detector')],
)
def test_checkpoint_of_other_task_gives_one_line(name, wrong, photos, capsys, request):
    checkpoint = request.getfixturevalue(wrong)
    with pytest.raises(SystemExit) as ended:
        example(name)(checkpoint, photos / 'a.png', '--device', 'cpu')
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert f'{checkpoint} is of a {wrong}' in lines[-1]
    assert not any('Traceback' in line for line in lines)
