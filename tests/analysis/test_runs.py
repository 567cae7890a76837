# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Reading work_dirs of resumed, tested and missing runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrla.analysis import runs
from mmrla.errors import UserError


def _session(work_dir: Path, time: str, *records: Any, config: str = '') -> None:
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(record) for record in records]
    # The last line of a run that was killed.
    (folder / 'scalars.json').write_text('\n'.join([*lines, '{"loss": 1.']))
    (folder / 'config.py').write_text(config)


def _train(step: int, loss: float) -> dict:
    return dict(lr=0.1, loss=loss, epoch=1, iter=step, step=step, time=0.1)


def test_resumed_run_is_one_curve(tmp_path: Path) -> None:
    validated = {'accuracy/top1': 10.0, 'data_time': 0.1, 'time': 0.2, 'step': 1}
    _session(tmp_path, '20260101_000000', _train(1, 3.0), _train(2, 2.0), validated)
    again = dict(validated, **{'accuracy/top1': 20.0})
    _session(tmp_path, '20260102_000000', _train(2, 1.5), _train(3, 1.0), again)
    run = runs.read_run(tmp_path)
    assert run.name == tmp_path.name
    assert runs.by_step(run.scalars, 'loss') == {1: 3, 2: 1.5, 3: 1}
    assert run.validations == {'accuracy/top1': {1: 20}}
    assert run.config == tmp_path / '20260102_000000/vis_data/config.py'
    assert run.tests == {}
    assert run.checkpoint() is None
    assert runs.curve_keys([run]) == ['loss', 'accuracy/top1']
    assert runs.curves_table([run], ['loss']) == [
        (tmp_path.name, 'loss', 1, 3.0),
        (tmp_path.name, 'loss', 2, 1.5),
        (tmp_path.name, 'loss', 3, 1.0),
    ]


def test_newest_test(tmp_path: Path) -> None:
    for folder, value in (('20260101_000000', 1.0), ('test/20260102_000000', 2.0)):
        path = tmp_path / folder / f'{Path(folder).name}.json'
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({'coco/bbox_mAP': value, 'time': 3}))
    assert runs.read_run(tmp_path).tests == {'coco/bbox_mAP': 2}


def test_other_metrics(tmp_path: Path) -> None:
    _session(tmp_path, '20260101_000000', {'single-label/f1-score': 5.0, 'step': 1})
    run = runs.read_run(tmp_path)
    assert runs.curve_keys([run]) == ['single-label/f1-score']


@pytest.mark.parametrize(
    'name, words',
    [
        ('none', 'none does not exist'),
        ('file', 'file is a file'),
        ('empty', 'empty is no work_dir'),
        ('configs', 'configs is no work_dir'),
    ],
)
def test_no_work_dir(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / 'file').touch()
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/a.py').touch()
    with pytest.raises(UserError, match=words):
        runs.read_run(tmp_path / name)


def test_equal_folder_names_get_parents(tmp_path: Path) -> None:
    for folder in ('a/run', 'b/run', 'other'):
        _session(tmp_path / folder, '20260101_000000', _train(1, 1.0))
    found = runs.read_runs([tmp_path / f for f in ('a/run', 'b/run', 'other')])
    assert [run.name for run in found] == ['a/run', 'b/run', 'other']
    with pytest.raises(UserError, match='more than once'):
        runs.read_runs([tmp_path / 'a/run', tmp_path / 'b/../a/run'])


def test_smooth() -> None:
    np.testing.assert_allclose(runs.smooth([3, 1, 2, 6], 3), [3, 2, 3, 6])
    assert runs.smooth([5.0]).tolist() == [5]
