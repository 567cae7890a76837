# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import json

import pytest
from mmengine.config import Config

from .conftest import REPO, call, load_tool

TOOL = 'misc/try_configs'


@pytest.mark.parametrize(
    'before, after',
    [
        (224, 64),
        ((1333, 800), (320, 192)),
        ([(480, 1333), (800, 1333)], [(128, 320), (192, 320)]),
        (32, 32),
        (0.5, 0.5),
        ('short', 'short'),
    ],
)
def test_shrink_sizes(before, after):
    cfg = [dict(type='Resize', scale=before, keep_ratio=True)]
    load_tool(TOOL).shrink_sizes(cfg, 0.25)
    assert cfg == [dict(type='Resize', scale=after, keep_ratio=True)]


def test_other_numbers_are_kept():
    cfg = dict(type='RandomErasing', max_area_ratio=0.3, prob=300)
    load_tool(TOOL).shrink_sizes(cfg, 0.25)
    assert cfg['prob'] == 300


def test_try_classifier_and_detector(
    capsys, classifier_config, detector_config, tmp_path
):
    """Both are trained through tools/train.py; a second call trains nothing."""
    out = tmp_path / 'results' / 'results.jsonl'
    options = ['--images', '4', '--batch-size', '2', '--epochs', '4', '--out', out]
    call(TOOL, classifier_config, detector_config, *options)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row['config'] for row in rows] == ['classifier', 'detector']
    for row in rows:
        assert row['iterations'] == 8
        assert 0 < row['last'] < row['first']
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('2/2 detector: 8 iterations') for line in lines)

    call(TOOL, classifier_config, detector_config, *options)
    assert len(out.read_text().splitlines()) == 2


def test_failures_are_named(capsys, classifier_config, tmp_path):
    cfg = Config.fromfile(classifier_config)
    cfg.model.head.in_channels = 5
    bad = tmp_path / 'bad.py'
    cfg.dump(bad)
    missing = tmp_path / 'missing.py'
    with pytest.raises(SystemExit) as ended:
        call(TOOL, missing, bad, '--images', '2')
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert '1/2 missing: FAILED: config ' in out
    assert '2/2 bad: FAILED: ' in out
    assert 'shapes' in out
    assert '2 of 2 configs failed or did not fit: missing, bad' in err


def test_data_option(capsys):
    with pytest.raises(SystemExit):
        load_tool(TOOL).parse_args(['x.py', '--data', 'coco'])
    assert "'coco' is not NAME=FOLDER" in capsys.readouterr().err
    args = load_tool(TOOL).parse_args(['x.py', '--data', 'coco=a', 'in1k=b=c'])
    assert args.data == dict(coco='a', in1k='b=c')


def test_class_folders_keep_head_of_config(tmp_path):
    """With ImageNet's configs the network keeps its 1,000 classes."""
    tool = load_tool(TOOL)
    from PIL import Image

    for name in ('cat', 'dog'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (70, 70)).save(tmp_path / 'train' / name / '0.png')
    cfg = Config.fromfile(REPO / 'configs/rla_resnet/rla-resnet50_4xb64_in1k.py')
    options = ['--data', f'in1k={tmp_path}', '--lr', '0.5']
    tool.lower(cfg, tool.parse_args(['x', *options]))
    dataset = cfg.train_dataloader.dataset
    assert dataset.metainfo.classes == ['cat', 'dog']
    assert dataset.indices == [0, 1]
    assert cfg.model.head.num_classes == 1000
    assert cfg.optim_wrapper.optimizer.lr == 0.5
