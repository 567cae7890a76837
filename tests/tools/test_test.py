# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import json
import pickle
from pathlib import Path

import pytest
import torch

from .conftest import call, error_line, metrics, weights


@pytest.fixture(scope='module')
def tested(trained, detector_config, tmp_path_factory):
    """The work_dir of a test with everything written."""
    work_dir = tmp_path_factory.mktemp('tested')
    args = '--out', work_dir / 'out.pkl', '--show-dir', 'shown'
    checkpoint = trained / 'epoch_2.pth'
    call('test', detector_config, checkpoint, '--work-dir', work_dir, *args)
    return work_dir


def test_the_table_is_the_one_of_the_training(trained, tested):
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


def test_images_are_painted(tested):
    assert len(list(tested.glob('2*/shown/*.png'))) == 5


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


@pytest.fixture
def places(tmp_path, trained):
    state = weights(trained / 'epoch_2.pth')
    torch.save({'state_dict': {'fc.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    torch.save({'epoch': 3}, tmp_path / 'empty.pth')
    partly = {k: v for k, v in state.items() if not k.startswith('roi_head')}
    torch.save(partly, tmp_path / 'partly.pth')
    whole = (trained / 'epoch_2.pth').read_bytes()
    (tmp_path / 'torn.pth').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'text.pth').write_text('<html>404</html>')
    (tmp_path / 'zero.pth').write_bytes(b'')
    return dict(tmp=tmp_path, good=trained / 'epoch_2.pth')


BAD_INPUT = {
    'missing': (['{tmp}/none.pth'], 'none.pth does not exist'),
    'folder': (['{tmp}'], 'is a folder'),
    'nothing in it': (['{tmp}/zero.pth'], 'is empty'),
    'truncated': (['{tmp}/torn.pth'], 'truncated'),
    'other file': (['{tmp}/text.pth'], 'no file of torch.save'),
    'no weights': (['{tmp}/empty.pth'], 'holds no weights'),
    'other network': (['{tmp}/other.pth'], 'belongs to another network'),
    'weights missing': (
        ['{tmp}/partly.pth'],
        'are missing: roi_head.bbox_head.fc_cls.weight',
    ),
    'other width': (
        ['{good}', '--cfg-options', 'model.neck.out_channels=24'],
        'shapes differ: neck',
    ),
    'not a pickle': (['{good}', '--out', 'out.json'], '.pkl'),
    'masks with tta': (
        ['{good}', '--tta', '--cfg-options', 'test_evaluator.metric=segm'],
        'boxes only',
    ),
    'no hook to paint': (
        ['{good}', '--show', '--cfg-options', 'default_hooks.visualization=None'],
        'visualization',
    ),
    'data root': (
        ['{good}', '--cfg-options', 'test_dataloader.dataset.data_root=nowhere'],
        'test_dataloader.dataset.data_root=FOLDER',
    ),
}


@pytest.mark.parametrize('args, message', BAD_INPUT.values(), ids=list(BAD_INPUT))
def test_bad_input_ends_in_one_line(
    args, message, places, detector_config, capsys, tmp_path
):
    args = [str(a).format(**places) for a in args]
    args += ['--work-dir', tmp_path / 'work']
    status, line = error_line(capsys, 'test', detector_config, *args)
    assert status in (1, 2)
    assert message in line


def test_code_in_a_checkpoint_is_not_run(trained, tested, detector_config, tmp_path):
    """A file of somebody else's may be evaluated, but not obeyed."""
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
