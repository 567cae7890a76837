# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Metafiles, READMEs and model-index.yml against the configs and their networks."""

from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from mmengine.config import Config

from mmrla.analysis.networks import analyse
from mmrla.checkpoints.released import PUBLISHED

from .conftest import load_tool

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(p for p in ROOT.glob('configs/*') if p.name != '_base_' and p.is_dir())


update_zoo = load_tool('misc/update_zoo')


def _meta(folder: Path) -> Dict[str, Any]:
    return yaml.safe_load((folder / 'metafile.yml').read_text())


ENTRIES: List[Dict[str, Any]] = [m for f in FOLDERS for m in _meta(f)['Models']]
FIRST = {Path(e['Config']).parent.name: e for e in reversed(ENTRIES)}


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda f: f.name)
def test_folder_is_up_to_date(folder: Path) -> None:
    text = update_zoo.metafile_text(folder, keep_counts=True)
    assert (folder / 'metafile.yml').read_text() == text, 'run tools/misc/update_zoo.py'
    readme = update_zoo.readme_text(folder, yaml.safe_load(text)['Models'])
    assert (folder / 'README.md').read_text() == readme, 'run tools/misc/update_zoo.py'


def test_index() -> None:
    assert (ROOT / 'model-index.yml').read_text() == update_zoo.index_text()
    assert [f.name for f in FOLDERS] == [
        path.split('/')[1]
        for path in yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    ]


def test_upstream_reads_the_index() -> None:
    modelindex = pytest.importorskip('modelindex.load_model_index')
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert {model.name for model in index.models} == {e['Name'] for e in ENTRIES}
    # It looks for files from the metafile's folder; upstream's are not there either.
    errors = [e for e in index.check(silent=True) if 'not a valid file' not in e]
    assert not errors


def _is_slow(entry: Dict[str, Any]) -> bool:
    """All detectors, which run at full size, and most classifiers."""
    is_detector = entry['Results'][0]['Task'] != 'Image Classification'
    folder = Path(entry['Config']).parent.name
    return is_detector or entry is not FIRST[folder]


@pytest.mark.parametrize(
    'entry',
    [
        pytest.param(e, marks=pytest.mark.slow if _is_slow(e) else (), id=e['Name'])
        for e in ENTRIES
    ],
)
@pytest.mark.usefixtures('no_init')
def test_flops(entry: Dict[str, Any]) -> None:
    complexity = analyse(Config.fromfile(ROOT / entry['Config'])).complexity
    assert entry['Metadata']['FLOPs'] == complexity.of()[1].macs


def test_metrics_name_their_source() -> None:
    """Each figure is marked as the paper's or as a published file's."""
    for entry in ENTRIES:
        for result in entry['Results']:
            for metric in result['Metrics']:
                assert metric.endswith((' (paper)', ' (published weights)')), metric
        if '-released' not in entry['Name']:
            assert 'Converted From' not in entry


def test_published_scores() -> None:
    by_config = {entry['Config'][len('configs/') :]: entry for entry in ENTRIES}
    names = {'top-1 error (%)': 'Top 1 Error', 'box AP': 'box AP', 'mask AP': 'mask AP'}
    for published in PUBLISHED:
        entry = by_config[published.config]
        assert entry['Converted From']['Weights'] == published.name
        metrics = {k: v for r in entry['Results'] for k, v in r['Metrics'].items()}
        for i, (name, score) in enumerate(published.scores):
            paper = metrics[f'{names[name]} (paper)']
            if published.paper:
                assert paper == published.paper[i]
            assert metrics.get(f'{names[name]} (published weights)', paper) == score
