# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Tools that draw figures, on thin networks."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
from typing import List

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from .conftest import REPO, call, error_line

for package in ('matplotlib', 'scipy', 'pytorch_grad_cam', 'jinja2'):
    pytest.importorskip(package)


def read(path):
    """The rows of a CSV file, by column."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def drawn(stem, least=5000):
    """Whether the three files of a figure are there, and not empty."""
    sizes = [
        stem.with_name(f'{stem.name}.{kind}').stat().st_size for kind in ('png', 'svg')
    ]
    return min(sizes) > least and bool(read(stem.with_name(f'{stem.name}.csv')))


@pytest.fixture(scope='session')
def classified(classifier_config, tmp_path_factory):
    """The work_dir of a classifier, trained for one epoch and tested."""
    work_dir = tmp_path_factory.mktemp('classified')
    call('train', classifier_config, '--work-dir', work_dir)
    out = work_dir / 'predictions.pkl'
    checkpoint = work_dir / 'epoch_1.pth'
    call('test', classifier_config, checkpoint, '--work-dir', work_dir, '--out', out)
    return work_dir


@pytest.fixture(scope='session')
def plain_detector(detector_config, tmp_path_factory):
    """The detector's config without RLA, and a checkpoint of random weights."""
    from mmrla.analysis.networks import build

    folder = tmp_path_factory.mktemp('plain')
    cfg = Config.fromfile(detector_config)
    cfg.model.backbone.rla_channels = 0
    cfg.dump(folder / 'plain.py')
    torch.save(dict(state_dict=build(cfg).state_dict()), folder / 'plain.pth')
    return folder / 'plain.py', folder / 'plain.pth'


# --- the hidden state ---------------------------------------------------------


def test_visualize_rla_of_a_detector(tmp_path, trained, detector_config, tiny_coco):
    checkpoint, image = trained / 'epoch_2.pth', tiny_coco / 'val/000.png'
    tool = 'analysis_tools/visualize_rla'
    call(tool, detector_config, checkpoint, image, '--out-dir', tmp_path)
    for name in ('state', 'norms', 'lags', 'reading'):
        assert drawn(tmp_path / name), name
    # The last update of a detector is not computed.
    blocks = [(row['stage'], row['block']) for row in read(tmp_path / 'norms.csv')]
    assert len(blocks) == 3 + 4 + 6 + 2
    lags = read(tmp_path / 'lags.csv')
    assert [row['powers_of_c3'] for row in lags if row['lag'] == '0'] == ['1'] * 4
    reading = read(tmp_path / 'reading.csv')
    assert len(reading) == 3 + 4 + 6 + 3
    # 4 of 8 + 4 input channels.
    assert float(reading[0]['channels']) == pytest.approx(4 / 12, rel=1e-4)


def test_visualize_rla_of_a_classifier(tmp_path, classified, classifier_config):
    image = tmp_path / 'picture.png'
    Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(image)
    tool = 'analysis_tools/visualize_rla'
    checkpoint = classified / 'epoch_1.pth'
    call(tool, classifier_config, checkpoint, image, '--out-dir', tmp_path / 'figures')
    assert len(read(tmp_path / 'figures/norms.csv')) == 3 + 4 + 6 + 3


def test_visualize_rla_of_cifar(tmp_path):
    """Pictures are resized to the size of CIFAR's."""
    from mmrla.analysis.networks import build

    cfg = Config.fromfile(REPO / 'configs/cifar/rla-resnet164_1xb128_cifar10.py')
    cfg.model.backbone.depth = 29
    cfg.model.backbone.bottleneck = True
    cfg.dump(tmp_path / 'config.py')
    torch.save(dict(state_dict=build(cfg).state_dict()), tmp_path / 'a.pth')
    image = tmp_path / 'picture.png'
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(image)
    call(
        'analysis_tools/visualize_rla',
        tmp_path / 'config.py',
        tmp_path / 'a.pth',
        image,
        '--out-dir',
        tmp_path / 'figures',
    )
    rows = read(tmp_path / 'figures/state.csv')
    assert max(int(row['row']) for row in rows) == 31
    assert max(int(row['column']) for row in rows) == 31


def test_visualize_rla_errors(capsys, tmp_path, trained, plain_detector, tiny_coco):
    tool, image = 'analysis_tools/visualize_rla', tiny_coco / 'val/000.png'
    status, line = error_line(capsys, tool, *plain_detector, image)
    assert status == 2
    assert 'RLAResNet has no hidden state' in line
    checkpoint = trained / 'epoch_2.pth'
    config = next(trained.glob('*.py'))
    _, line = error_line(capsys, tool, config, checkpoint, tmp_path / 'none.png')
    assert 'none.png does not exist' in line
    _, line = error_line(capsys, tool, config, checkpoint, config)
    assert 'cannot be read as an image' in line
    _, line = error_line(capsys, tool, plain_detector[0], checkpoint, image)
    assert 'belongs to another network' in line


# --- Grad-CAM -----------------------------------------------------------------


def test_cam_of_classifiers(capsys, tmp_path, classified, classifier_config):
    image = tmp_path / 'picture.png'
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(image)
    pair = classifier_config, classified / 'epoch_1.pth'
    stem = tmp_path / 'cam'
    call('analysis_tools/visualize_cam', image, *pair, *pair, '--out', stem)
    assert drawn(stem)
    # The main network's last norm, not the RLA unit's.
    assert capsys.readouterr().out.count('at backbone.layer4.2.bn3') == 2
    rows = read(tmp_path / 'cam.csv')
    values = [float(row['mean_of_8x8']) for row in rows]
    assert len(rows) == 2 * 8 * 8
    assert 0 <= min(values)
    assert max(values) <= 1
    assert values[:64] == values[64:]


def test_cam_of_detectors(capsys, tmp_path, trained, detector_config, tiny_coco):
    image, stem = tiny_coco / 'val/000.png', tmp_path / 'cam'
    pair = detector_config, trained / 'epoch_2.pth'
    options = ['--out', stem, '--score-thr', '0.01']
    call('analysis_tools/visualize_cam', image, *pair, *options)
    assert drawn(stem)
    out = capsys.readouterr().out
    assert 'objects found, at backbone.layer1.2.bn3, backbone.layer2' in out


def test_cam_errors(capsys, tmp_path, trained, detector_config, tiny_coco):
    tool, image = 'analysis_tools/visualize_cam', tiny_coco / 'val/000.png'
    pair = detector_config, trained / 'epoch_2.pth'
    out = '--out', tmp_path / 'cam'
    status, line = error_line(capsys, tool, image, *pair, *out, '--score-thr', '0.99')
    assert status == 2
    assert 'no object with a score of 0.99 or more' in line
    _, line = error_line(capsys, tool, image, *pair, *out, '--layers', 'backbone.no')
    assert '--layers backbone.no: no such module; some are' in line
    _, line = error_line(capsys, tool, image, detector_config, *out)
    assert 'CONFIG CHECKPOINT' in line


# --- training and scores ------------------------------------------------------


def test_curves(capsys, tmp_path, trained, classified):
    tool, stem = 'analysis_tools/plot_curves', tmp_path / 'curves'
    call(tool, trained, classified, '--out', stem)
    assert drawn(stem)
    rows = read(tmp_path / 'curves.csv')
    assert {row['scalar'] for row in rows} == {'loss', 'coco/bbox_mAP', 'accuracy/top1'}
    assert sum(row['scalar'] == 'loss' for row in rows) > 8
    status, line = error_line(capsys, tool, trained, '--out', stem, '--keys', 'los')
    assert status == 2
    assert '--keys los is not logged; there are' in line
    _, line = error_line(capsys, tool, tmp_path, '--out', stem)
    assert 'is no work_dir' in line


def test_confusion_matrix_of_a_classifier(tmp_path, classified, classifier_config):
    from mmengine.fileio import load

    predictions, stem = classified / 'predictions.pkl', tmp_path / 'matrix'
    tool = 'analysis_tools/confusion_matrix'
    call(tool, classifier_config, predictions, '--out', stem)
    assert drawn(stem)
    expected = np.zeros((2, 2), int)
    for item in load(predictions):
        expected[int(item['gt_label']), int(item['pred_score'].argmax())] += 1
    rows = read(tmp_path / 'matrix.csv')
    assert [(row['truth'], row['predicted']) for row in rows][1] == ('dark', 'light')
    assert [int(row['count']) for row in rows] == expected.flatten().tolist()


@pytest.fixture(scope='session')
def detections(trained, detector_config, tmp_path_factory):
    """Predictions of the detector, as a pickle file and in COCO's format."""
    folder = tmp_path_factory.mktemp('detections')
    options = [f'test_evaluator.outfile_prefix={folder}/results']
    checkpoint, out = trained / 'epoch_2.pth', folder / 'predictions.pkl'
    call(
        'test',
        detector_config,
        checkpoint,
        '--work-dir',
        folder,
        '--out',
        out,
        '--cfg-options',
        *options,
    )
    return folder


def test_confusion_matrix_of_a_detector(capsys, tmp_path, detections, detector_config):
    tool, stem = 'analysis_tools/confusion_matrix', tmp_path / 'matrix'
    predictions = detections / 'predictions.pkl'
    # No object is found with such a score: all are missed.
    options = ['--out', stem, '--score-thr', '0.999']
    call(tool, detector_config, predictions, *options)
    counts = {
        (row['truth'], row['predicted']): int(row['count'])
        for row in read(tmp_path / 'matrix.csv')
    }
    assert counts.pop(('red', 'background')) == 5
    assert counts.pop(('blue', 'background')) == 5
    assert not any(counts.values())
    status, line = error_line(
        capsys, tool, detector_config, tmp_path / 'none.pkl', '--out', stem
    )
    assert status == 2
    assert 'none.pkl does not exist' in line


def test_coco_error_analysis_matches_cocoeval(capsys, tmp_path):
    """Means over the classes with objects of a size; empty sizes are left out."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    # The side of each class's objects: small ones of one class of three alone.
    sides = {1: 20, 2: 50, 3: 60}
    images = [dict(id=i, file_name=f'{i}.png', width=200, height=100) for i in range(9)]
    annotations: List[dict] = []
    found: List[dict] = []
    for image in images:
        for category, side in sides.items():
            x, y = (int(v) for v in rng.integers(0, 30, 2))
            box = [x + 50 * (category - 1), y, side, side]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=category,
                    bbox=box,
                    area=side * side,
                    # A crowd is no object to find.
                    iscrowd=int(image['id'] == 8),
                )
            )
            shift = float(rng.uniform(0, 0.45)) * side
            found.append(
                dict(
                    image_id=image['id'],
                    category_id=category if rng.random() > 0.2 else 3,
                    bbox=[box[0] + shift, *box[1:]],
                    score=float(rng.random()),
                )
            )
    # The only large object is a crowd.
    annotations[-1].update(bbox=[0, 0, 100, 100], area=10000)
    names = {1: 'cell', 2: 'plate', 3: 'disc'}
    categories = [dict(id=i, name=name) for i, name in names.items()]
    truth, results = tmp_path / 'truth.json', tmp_path / 'results.json'
    content = dict(images=images, annotations=annotations, categories=categories)
    truth.write_text(json.dumps(content))
    results.write_text(json.dumps(found))
    tool, out = 'analysis_tools/coco_error_analysis', tmp_path / 'errors'
    call(tool, results, out, '--ann', truth)
    printed = capsys.readouterr().out

    coco = COCO(str(truth))
    evaluation = COCOeval(coco, coco.loadRes(str(results)), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    # IoU (0.5 is the first, 0.75 the sixth), recall, class, area, detections
    precision = evaluation.eval['precision'][[5, 0], :, :, :, -1]
    for name, expected in (
        ('allclass', precision),
        *((name, precision[:, :, [i]]) for i, name in enumerate(names.values())),
    ):
        assert drawn(out / 'bbox' / name, least=3000)
        rows = read(out / 'bbox' / f'{name}.csv')
        for a, area in enumerate(('all', 'small', 'medium', 'large')):
            values = expected[..., a]
            here = [row for row in rows if row['area'] == area]
            if (values == -1).all():
                assert not here, (name, area)
                continue
            for kind, counted in zip(('C75', 'C50'), values):
                mean = np.mean([float(row[kind]) for row in here])
                assert mean == pytest.approx(counted[counted > -1].mean(), abs=1e-5)
                assert 0 < mean < 1
            assert np.mean([float(row['FN']) for row in here]) == 1
    # Of three classes one has small objects, and none a large one.
    areas = {row['area'] for row in read(out / 'bbox/allclass.csv')}
    assert areas == {'all', 'small', 'medium'}
    counted = precision[1, :, :, 0]
    assert f'C50 {counted[counted > -1].mean():.3f}' in printed


# --- the page -----------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Texts, and what the page would load."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.loads, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ('src', 'href', 'srcset')]

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def test_compare(tmp_path, trained, classified):
    """A detector, a classifier, and a run without scores whose name needs escaping."""
    other = tmp_path / '<b>new & "odd"'
    shutil.copytree(trained, other, ignore=shutil.ignore_patterns('*.pth', 'last_*'))
    for path in other.glob('*/vis_data/scalars.json'):
        lines = path.read_text().splitlines()
        path.write_text('\n'.join(line for line in lines if 'coco/' not in line))
    out = tmp_path / 'page.html'
    options = ['--out', out, '--rounds', '2', '--batch-size', '1', '--examples', '1']
    call('analysis_tools/compare', trained, classified, other, *options)
    text = out.read_text()
    page = Page(text)
    assert page.loads
    assert all(uri.startswith('data:image/') for uri in page.loads)
    assert not re.search(r'@import|url\(', text)
    assert not {'script', 'link', 'iframe'} & set(page.tags)
    assert '<b>new' not in text
    # A single run is no better than another.
    assert 'underline' not in text
    assert '<b>new & "odd"' in page.texts
    # The cost that tools/get_flops.py counts.
    from mmrla.analysis.networks import analyse

    params, _ = analyse(Config.fromfile(next(trained.glob('*.py')))).complexity.of()
    assert f'{params:,}' in page.texts
    assert {'coco/bbox_mAP', 'accuracy/top1'} <= set(page.texts)
    assert any('no checkpoint in' in t for t in page.texts)
    assert '2 objects' in page.texts
    assert '1 objects found' not in page.texts


def test_compare_without_scores_and_examples(capsys, tmp_path, trained):
    work_dir = tmp_path / 'started'
    folder = work_dir / '20260101_000000/vis_data'
    folder.mkdir(parents=True)
    (folder / 'config.py').write_text('model = dict(type="None")\n')
    out = tmp_path / 'page.html'
    call('analysis_tools/compare', work_dir, '--out', out)
    texts = Page(out.read_text()).texts
    assert 'No run has been validated or tested.' in texts
    assert 'No run has logged anything.' in texts
    assert any('There are no examples' in t for t in texts)
    status, line = error_line(capsys, 'analysis_tools/compare', tmp_path, '--out', out)
    assert status == 2
    assert 'is no work_dir' in line


@pytest.fixture(scope='module')
def probed(tmp_path_factory, trained):
    """A page with a script that measures what the browser shows."""
    folder = tmp_path_factory.mktemp('page')
    out = folder / 'page.html'
    options = ['--out', out, '--rounds', '0', '--examples', '2']
    call('analysis_tools/compare', trained, *options)
    script = (
        '<script>document.body.dataset.found = JSON.stringify(['
        'innerWidth, document.documentElement.scrollWidth, '
        '[...document.images].filter(i => i.naturalWidth > 100).length'
        ']).slice(1, -1)</script></body>'
    )
    probe = folder / 'probe.html'
    probe.write_text(out.read_text().replace('</body>', script))
    return probe


BROWSER = shutil.which('chromium') or ''


@pytest.mark.skipif(not BROWSER, reason='chromium is not installed')
@pytest.mark.parametrize('width', [1280, 390])
def test_page_in_a_browser(tmp_path, probed, width):
    """Nothing is wider than the window, neither on a desk nor on a phone."""
    options = '--no-sandbox --disable-gpu --disable-background-networking'.split()
    done = subprocess.run(
        [
            BROWSER,
            '--headless',
            *options,
            f'--user-data-dir={tmp_path / "profile"}',
            f'--window-size={width},844',
            '--virtual-time-budget=2000',
            '--dump-dom',
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    found = re.search(r'data-found="(\d+),(\d+),(\d+)"', done.stdout)
    assert found is not None, done.stderr[-500:]
    window, page, images = map(int, found.groups())
    # A headless window may not be as narrow as asked for.
    assert window <= max(width, 500)
    assert page <= window
    # Two curves, and two examples with the truth beside the prediction.
    assert images == 2 + 2 * 2


# --- cost and published error --------------------------------------------------


def test_cost_figure(tmp_path):
    """The figure in docs matches the metafiles."""
    call('misc/draw_readme_figures', '--out-dir', tmp_path)
    rows = [tuple(row.values()) for row in read(tmp_path / 'cost_error.csv')]
    # Table 3: three depths with five modules each, CBAM for two of them.
    assert len(rows) == 17
    assert rows[0] == ('ResNet-50', 'plain', '3.83', '24.7')
    assert rows[1] == ('ResNet-50', '+RLA', '4.17', '22.83')
    assert rows[-1] == ('ResNet-152', '+ECA+RLA', '11.48', '20.66')
    figures = REPO / 'docs/figures'
    assert (figures / 'cost_error.csv').read_bytes() == (
        tmp_path / 'cost_error.csv'
    ).read_bytes()
    assert all(path.stat().st_size < 300_000 for path in figures.iterdir())
