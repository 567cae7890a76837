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
    cfg = [dict(type='Resize', scale=before, prob=300)]
    load_tool(TOOL).shrink_sizes(cfg, 0.25)
    assert cfg == [dict(type='Resize', scale=after, prob=300)]


@pytest.mark.slow
def test_try_configs(capsys, classifier_config, detector_config, tmp_path):
    """Trained through tools/train.py; a second call trains only what has failed."""
    cfg = Config.fromfile(classifier_config)
    cfg.model.head.in_channels = 5
    missing, bad = tmp_path / 'missing.py', tmp_path / 'bad.py'
    cfg.dump(bad)
    out = tmp_path / 'results' / 'results.jsonl'
    options = ['--images', '4', '--batch-size', '2', '--epochs', '4', '--out', out]
    with pytest.raises(SystemExit) as ended:
        call(TOOL, missing, bad, detector_config, *options)
    assert ended.value.code == 1
    printed, errors = capsys.readouterr()
    assert '1/3 missing: FAILED: config ' in printed
    assert '2/3 bad: FAILED: ' in printed
    assert 'shapes' in printed
    assert '3/3 detector: 8 iterations' in printed
    assert 'missing, bad' in errors.splitlines()[-1]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row['config'] for row in rows] == ['missing', 'bad', 'detector']
    assert rows[2]['iterations'] == 8
    assert 0 < rows[2]['last'] < rows[2]['first']

    call(TOOL, detector_config, *options)
    assert len(out.read_text().splitlines()) == 3


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
