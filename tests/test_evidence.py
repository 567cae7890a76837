# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""docs/evidence.jsonl, and what is generated from it."""

import re
from collections import Counter

import pytest

from mmrla.analysis.experiments import EXPERIMENTS, read_lines

from .conftest import load_tool

tool = load_tool('misc/update_evidence')
LINES = read_lines(tool.RESULTS)


def test_pages_and_plot_are_up_to_date(capsys):
    tool.main(['--check'])
    assert capsys.readouterr().out == ''


def test_lines_are_whole_and_each_run_has_one():
    runs = [(x['experiment'], x['network'], x['seed']) for x in LINES]
    assert not [run for run, number in Counter(runs).items() if number > 1]
    for line in LINES:
        experiment = EXPERIMENTS[line['experiment']]
        network = experiment.network(line['network'])
        assert line['config'] == network.config
        assert re.fullmatch(r'[0-9a-f]{12}', line['commit'])
        assert line['scores'].keys() >= {experiment.scores[0].key}
        for key in ('data', 'device', 'torch', 'date', 'threads', 'epochs'):
            assert line[key], key


def test_outdated_pages_are_found_and_renewed(monkeypatch, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    copy = tmp_path / tool.PAGE.name
    copy.write_text(tool.PAGE.read_text().replace(tool.END, f'by hand {tool.END}'))
    monkeypatch.setattr(tool, 'PAGE', copy)
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(tool, 'FIGURE', tmp_path / 'figure')
    scores = tool.published()
    monkeypatch.setattr(tool, 'published', lambda: scores)
    with pytest.raises(SystemExit):
        tool.main(['--check'])
    assert capsys.readouterr().out.splitlines() == [
        'out of date: evidence.md',
        'out of date: figure.png',
    ]
    tool.main([])
    tool.main(['--check'])
    tool.PAGE.write_text('')
    with pytest.raises(SystemExit):
        tool.main([])
    assert 'has no part between <!-- evidence: ' in capsys.readouterr().err


def test_links_exist():
    for link in re.findall(r'\]\(([^)#]+)\)', tool.PAGE.read_text()):
        assert (tool.PAGE.parent / link).exists(), link
