# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The paper's params and FLOPs columns, rebuilt from the configs."""

import json
from dataclasses import replace

import pytest
from torch import nn

from mmrla.analysis import paper
from mmrla.analysis.complexity import DECIMAL_UNITS, PAPER_UNITS
from mmrla.analysis.paper import Table, figure, read_tables, rebuild
from mmrla.errors import UserError

from .conftest import REPO, call, error_line, load_tool

TOOL = 'analysis_tools/paper_tables'
CONFIGS = REPO / 'configs'
DATA = REPO / 'tools' / f'{TOOL}.yml'
TABLES = read_tables(DATA)


@pytest.fixture(scope='module')
def results():
    """All tables, which takes 20 CPU seconds."""
    with pytest.MonkeyPatch.context() as patch:
        # What weights start with is no matter for counting.
        patch.setattr(nn.init, 'kaiming_uniform_', lambda weight, *args, **kw: weight)
        yield rebuild(CONFIGS, TABLES)


def test_tables_are_complete():
    assert [table.number for table in TABLES] == [2, 3, 6, 11, 13, 15]
    assert [len(table.rows) for table in TABLES] == [12, 34, 12, 13, 4, 6]


def test_every_row_agrees(results):
    verdicts = {
        (table.number, result.row.model, result.row.config): result.verdict
        for table, rows in zip(TABLES, results)
        for result in rows
        if result.verdict != 'agrees'
    }
    cited = [key for key, verdict in verdicts.items() if verdict == 'cited']
    assert [config for _, _, config in cited] == [None] * 10
    others = {key[2]: v for key, v in verdicts.items() if v != 'cited'}
    assert others == {
        'baselines/eca-resnet152_4xb64_in1k.py': 'rounded twice',
        'baselines/se-mobilenet-v2_2xb48_in1k.py': 'unknown',
    }


def test_cifar_has_parameters_only(results):
    for rows in results:
        for result in rows:
            if result.row.data != 'ImageNet':
                assert result.flops.ours is None
                assert abs(result.params.relative) <= 0.015


def test_documentation_page_is_current(results):
    page = load_tool(TOOL).to_markdown(TABLES, results) + '\n'
    written = (REPO / 'docs' / 'paper_tables.md').read_text(encoding='utf-8')
    assert written == page, (
        'make it again: python tools/analysis_tools/paper_tables.py '
        '--out docs/paper_tables.md'
    )


def test_json_has_every_row(results):
    tables = json.loads(load_tool(TOOL).to_json(TABLES, results))['tables']
    for table, counted in zip(TABLES, tables):
        assert counted['table'] == table.number
        for row, entry in zip(table.rows, counted['rows']):
            assert entry['model'] == row.model
            assert entry['params']['paper'] == row.params
            assert entry['flops']['paper'] == row.flops
            assert (entry['params']['exact'] is None) == (row.config is None)
    row = tables[1]['rows'][15]
    assert row['config'] == 'baselines/eca-resnet152_4xb64_in1k.py'
    assert row['params']['difference'] == -0.01


THIN = 'baselines/mobilenet-v2_2xb48_in1k.py'


@pytest.mark.parametrize(
    'params, flops, verdict, status',
    [
        ('3.34M', '299.6M', 'agrees', 0),
        ('3.35M', '299.6M', 'OFF', 1),
        ('3.34M', '299.7M', 'OFF', 1),
    ],
)
def test_exit_status_of_row_that_is_off(
    monkeypatch, capsys, tmp_path, params, flops, verdict, status
):
    row = dict(model='MobileNetV2', config=THIN, params=params, flops=flops)
    data = tmp_path / 'tables.yml'
    data.write_text(json.dumps([dict(number=3, title='ImageNet', rows=[row])]))
    monkeypatch.setattr(paper, 'read_tables', lambda path: read_tables(data))
    out = tmp_path / 'tables.json'
    args = '--format', 'json', '--out', out
    if status:
        with pytest.raises(SystemExit) as ended:
            call(TOOL, *args)
        assert ended.value.code == status
        assert 'Table 3, MobileNetV2' in capsys.readouterr().err
    else:
        call(TOOL, *args)
    (entry,) = json.loads(out.read_text())['tables'][0]['rows']
    assert entry['verdict'] == verdict
    assert sorted(tmp_path.iterdir()) == [out, data]


def test_bad_arguments(capsys, tmp_path):
    status, line = error_line(capsys, TOOL, '--table', 4)
    assert status == 2
    assert '4' in line
    status, line = error_line(
        capsys, TOOL, '--table', 13, '--out', tmp_path / 'no folder' / 'page.md'
    )
    assert status == 1
    assert 'no folder' in line
    row = replace(TABLES[4].rows[0], config='cifar/missing.py')
    with pytest.raises(UserError, match='missing.py does not exist'):
        rebuild(CONFIGS, [Table(13, 'k', [row])])


def test_differences_of_printed_figures():
    one = figure('24.37M', 25_557_032, PAPER_UNITS)
    assert (one.ours, one.difference) == ('24.37M', 0)
    one = figure('24.36M', 25_557_032, PAPER_UNITS)
    assert (one.ours, one.difference) == ('24.37M', 0.01)
    one = figure('3.83G', 4_111_514_624, PAPER_UNITS)
    assert (one.ours, one.difference) == ('3.83G', 0)
    added = figure('+0.02M', 36_192, DECIMAL_UNITS, whole=1.74)
    assert (added.ours, added.difference) == ('+0.04M', 0.02)
    assert added.relative == pytest.approx((0.036192 - 0.02) / 1.74)


def test_double_rounding_is_recognised():
    def agreement(paper_figure, count):
        return paper._agreement(figure(paper_figure, count, PAPER_UNITS))

    # 57.40457: 57.405, 57.41
    assert agreement('57.40M', 60_193_064) == 'agrees'
    assert agreement('57.41M', 60_193_064) == 'rounded twice'
    assert agreement('57.42M', 60_193_064) == 'OFF'
    # 57.40433: 57.404, 57.40
    assert agreement('57.41M', 60_192_808) == 'OFF'
