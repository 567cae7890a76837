# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The notebook: it runs, and what is stored of it is small and clean."""

import json
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest

REPO = Path(__file__).resolve().parents[2]
NOTEBOOK = REPO / 'demo/mmrla_tutorial.ipynb'


def _outputs(notebook: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    for cell in notebook['cells']:
        yield from cell.get('outputs', ())


def test_stored_outputs() -> None:
    assert NOTEBOOK.stat().st_size < 500_000
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert all(cell['execution_count'] for cell in code)
    kinds = {output['output_type'] for output in _outputs(notebook)}
    assert 'error' not in kinds
    pictures = [o for o in _outputs(notebook) if 'image/png' in o.get('data', {})]
    assert len(pictures) >= 2
    # Nothing of the machine that it was run on.
    text = ''.join(''.join(o.get('text', ())) for o in _outputs(notebook))
    assert not re.search(r'(^|[\s\'"])/(home|root|tmp|work|usr)/', text)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executed notebook stays in ``--basetemp``, to be stored in the repository."""
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    import nbformat

    path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')])
    monkeypatch.setenv('PYTHONPATH', path)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = dict(metadata=dict(path=str(tmp_path)))
    nbclient.NotebookClient(
        notebook, timeout=1800, resources=where, record_timing=False
    ).execute()
    nbformat.write(notebook, tmp_path / NOTEBOOK.name)
    text = ''.join(o.get('text', '') for o in _outputs(notebook))
    assert text.count('equal: True') == 4
    assert 'coco/bbox_mAP' in text
    work = tmp_path / 'work_dirs/tutorial'
    assert list((work / 'found/vis').iterdir())
    assert (work / 'hidden/state.png').is_file()
