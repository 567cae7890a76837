# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import call, metrics


@pytest.fixture(scope='module')
def tested(trained, detector_config, tmp_path_factory):
    """The work_dir of a test that writes all its outputs."""
    work_dir = tmp_path_factory.mktemp('tested')
    args = '--out', work_dir / 'out.pkl', '--show-dir', 'shown'
    checkpoint = trained / 'epoch_2.pth'
    call('test', detector_config, checkpoint, '--work-dir', work_dir, *args)
    return work_dir


def test_metrics_equal_validation(trained, tested):
    log = sorted(trained.glob('*/vis_data/scalars.json'))[-1]
    (validated,) = (
        values
        for values in map(json.loads, log.read_text().splitlines())
        if 'coco/bbox_mAP' in values
    )
    table = metrics(tested)
    assert len(table) == 6
    assert table == {name: validated[name] for name in table}


def test_predictions_are_written(tested):
    with (tested / 'out.pkl').open('rb') as file:
        predictions = pickle.load(file)
    assert [p['img_id'] for p in predictions] == list(range(5))
    assert predictions[0]['pred_instances']['bboxes'].shape[1] == 4


def test_deployed_form_gives_same_results(trained, tested, detector_config, tmp_path):
    args = '--work-dir', tmp_path, '--no-deploy', '--out', tmp_path / 'out.pkl'
    call('test', detector_config, trained / 'epoch_2.pth', *args)
    assert metrics(tmp_path) == metrics(tested)
    texts, predictions = [], []
    for work_dir in (tested, tmp_path):
        texts.append(sorted(work_dir.glob('2*/2*.log'))[-1].read_text())
        with (work_dir / 'out.pkl').open('rb') as file:
            predictions.append(pickle.load(file))
    assert ['in their deployed form' in text for text in texts] == [True, False]
    for one, other in zip(*predictions):
        one, other = one['pred_instances'], other['pred_instances']
        assert (one['labels'] == other['labels']).float().mean() > 0.9
        torch.testing.assert_close(one['scores'], other['scores'], rtol=0, atol=1e-4)


def test_images_are_drawn(tested):
    assert len(list(tested.glob('2*/shown/*.png'))) == 5


def test_class_colours(tested, tiny_coco):
    """The second class is drawn in blue; COCO's second colour is a dark red."""
    content = json.loads((tiny_coco / 'annotations/val.json').read_text())
    image = content['images'][0]
    (box,) = (
        a['bbox']
        for a in content['annotations']
        if (a['image_id'], a['category_id']) == (image['id'], 2)
    )
    (path,) = tested.glob(f'2*/shown/{image["file_name"][:-4]}*.png')
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert('RGB'), float)
    x, y, _, height = box
    # The box's left side in the left half: the truth.
    red, green, blue = pixels[y + height // 2 : y + height - 2, x].mean(0)
    assert blue > green > red


def test_tta_flips(trained, tested, detector_config, tmp_path):
    args = '--work-dir', tmp_path, '--tta', '--out', tmp_path / 'out.pkl'
    call('test', detector_config, trained / 'epoch_2.pth', *args)
    assert metrics(tmp_path).keys() == metrics(tested).keys()
    boxes = []
    for work_dir in (tmp_path, tested):
        with (work_dir / 'out.pkl').open('rb') as file:
            boxes.append(pickle.load(file)[0]['pred_instances']['bboxes'])
    assert boxes[0].shape != boxes[1].shape or not boxes[0].equal(boxes[1])


def test_classifiers(classifier_config, tmp_path):
    call('train', classifier_config, '--work-dir', tmp_path)
    checkpoint = tmp_path / 'epoch_1.pth'
    for extra in (['--show-dir', 'shown'], ['--tta']):
        out = tmp_path / 'out.pkl'
        args = '--work-dir', tmp_path, '--out', out, *extra
        call('test', classifier_config, checkpoint, *args)
        with out.open('rb') as file:
            predictions = pickle.load(file)
        assert len(predictions) == 6
        assert predictions[0]['pred_score'].shape == (2,)
        assert set(metrics(tmp_path)) == {'accuracy/top1'}
    assert len(list(tmp_path.glob('2*/shown/*.png'))) == 6


def test_code_in_checkpoint_is_not_run(trained, tested, detector_config, tmp_path):
    """A foreign file is evaluated without running its code."""
    witness = tmp_path / 'run'

    class Evil:
        def __reduce__(self):
            return Path.touch, (witness,)

    checkpoint = torch.load(trained / 'epoch_2.pth', weights_only=False)
    checkpoint['meta']['evil'] = Evil()
    torch.save(checkpoint, tmp_path / 'evil.pth')
    call('test', detector_config, tmp_path / 'evil.pth', '--work-dir', tmp_path / 'w')
    assert metrics(tmp_path / 'w') == metrics(tested)
    assert not witness.exists()
