# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""docs/own_data.md: every script and command, in order, on a few tiny photographs."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / 'docs/own_data.md').read_text()
CLASSES = 'RBC', 'WBC', 'Platelets'
SPLITS = dict(train=6, val=4, test=4)
WIDTH, HEIGHT = 160, 120


def _boxes(rng: np.random.Generator) -> List[Tuple[int, List[int]]]:
    """One box of each class: x, y, width, height."""
    corners = ((c, rng.integers(0, 60, 2).tolist()) for c in range(len(CLASSES)))
    return [(c, [x, y, 40, 30]) for c, (x, y) in corners]


def write_data(root: Path) -> None:
    """The same photographs as folders of VOC and YOLO and as one COCO file."""
    rng = np.random.default_rng(0)
    voc, yolo, coco = (root / f'cells_{name}' for name in ('voc', 'yolo', 'coco'))
    for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (voc / folder).mkdir(parents=True)
    (coco / 'images').mkdir(parents=True)
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
    whole: Dict[str, list] = dict(images=[], annotations=[], categories=categories)
    for split, number in SPLITS.items():
        names = [f'BloodImage_{split}{i}' for i in range(number)]
        names[0] = 'BloodImage_00007' if split == 'test' else names[0]
        (voc / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
        for part in ('images', 'labels'):
            (yolo / part / split).mkdir(parents=True)
        for name in names:
            image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            folders = voc / 'JPEGImages', yolo / 'images' / split, coco / 'images'
            for target in folders:
                cv2.imwrite(str(target / f'{name}.jpg'), image)
            image_id = len(whole['images']) + 1
            size = dict(width=WIDTH, height=HEIGHT)
            whole['images'].append(dict(id=image_id, file_name=f'{name}.jpg', **size))
            objects, lines = '', []
            # supervision numbers VOC's classes as it meets them, sorted in each image:
            # the first image has no platelets.
            boxes = _boxes(rng)[: 2 if name == 'BloodImage_00007' else 3]
            for label, (x, y, w, h) in boxes:
                annotation: Dict[str, Any] = dict(
                    image_id=image_id, category_id=label + 1
                )
                annotation |= dict(bbox=[x, y, w, h], area=w * h, iscrowd=0)
                whole['annotations'].append(
                    dict(annotation, id=len(whole['annotations']) + 1)
                )
                centre = (x + w / 2) / WIDTH, (y + h / 2) / HEIGHT
                lines.append(
                    ' '.join(map(str, (label, *centre, w / WIDTH, h / HEIGHT)))
                )
                corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), (x, y, x + w, y + h))
                box = ''.join(f'<{k}>{v}</{k}>' for k, v in corners)
                objects += f'<object><name>{CLASSES[label]}</name>'
                objects += f'<difficult>0</difficult><bndbox>{box}</bndbox></object>'
            shape = f'<width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth>'
            (voc / f'Annotations/{name}.xml').write_text(
                f'<annotation><filename>{name}.jpg</filename><size>{shape}</size>'
                f'{objects}</annotation>'
            )
            (yolo / f'labels/{split}/{name}.txt').write_text('\n'.join(lines))
    (yolo / 'data.yaml').write_text(f'names: {list(CLASSES)}\n')
    (coco / 'all.json').write_text(json.dumps(whole))


def write_weights(home: Path, url: str) -> None:
    """Random weights, where torch keeps the file that the page's config names."""
    from mmpretrain.models import MobileNetV2

    path = home / 'hub/checkpoints' / url.rpartition('/')[2]
    path.parent.mkdir(parents=True)
    weights = MobileNetV2(out_indices=(7,)).state_dict()
    named = {f'backbone.{name}': value for name, value in weights.items()}
    torch.save(dict(state_dict=named), path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_page(tmp_path: Path) -> None:
    """As without a GPU: ``cells_cpu.py`` takes the place of ``cells.py``."""
    pytest.importorskip('supervision')
    blocks = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    *conversions, cells, export, voc, cpu = blocks
    assert len(conversions) == 3
    on_cpu = [("'cells.py'", "'cells_cpu.py'"), (' cells.py', ' cells_cpu.py')]
    on_cpu += [('work_dirs/cells/', 'work_dirs/cells_cpu/'), ('epoch_24', 'epoch_4')]

    def without_gpu(text: str) -> str:
        for old, new in on_cpu:
            text = text.replace(old, new)
        return text

    write_data(tmp_path / 'data')
    url = ''.join(re.findall(r"'(https://download.*/)'\n\s*'(.*\.pth)'", cpu)[0])
    write_weights(tmp_path / 'torch', url)
    (tmp_path / 'cells.py').write_text(cells)
    (tmp_path / 'cells_cpu.py').write_text(cpu)
    (tmp_path / 'cells_voc.py').write_text(without_gpu(voc))
    env = dict(os.environ, TORCH_HOME=str(tmp_path / 'torch'), OMP_NUM_THREADS='1')
    env['PYTHONPATH'] = os.pathsep.join([str(ROOT), env.get('PYTHONPATH', '')])

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, (command, done.stdout)
        return done.stdout

    for code in reversed(conversions):  # so that the VOC folder's split is what stays
        printed = run('-c', code)
        assert printed.splitlines()[-1] == f'classes {list(CLASSES)}'
        for split in SPLITS:
            path = tmp_path / f'data/cells/annotations/{split}.json'
            content = json.loads(path.read_text())
            assert [c['name'] for c in content['categories']] == list(CLASSES)
            missing = 3 * len(content['images']) - len(content['annotations'])
            assert content['images']
            assert missing in (0, 1)

    output = {}
    for line in re.findall(r'^    mmrla (.*)$', PAGE, re.M):
        output[line] = run('-m', 'mmrla.cli', *shlex.split(without_gpu(line)))
    run('-c', without_gpu(export))

    assert 'train: 6 images, 3 classes' in output['check cells.py']
    assert len(list((tmp_path / 'browse').iterdir())) == 6
    (tested,) = (
        text for line, text in output.items() if line.startswith('test cells.py')
    )
    assert re.search(r'coco/bbox_mAP: [\d.]', tested)
    assert 'Platelets' in tested
    work = tmp_path / 'work_dirs'
    assert len(list(work.glob('cells_cpu/*/pictures/*'))) == SPLITS['test']
    assert (tmp_path / 'found/vis/BloodImage_00007.jpg').is_file()
    (tested,) = (t for line, t in output.items() if line.startswith('test cells_voc'))
    assert re.search(r'pascal_voc/mAP: [\d.]', tested)
    assert list(work.glob('cells_voc/best_pascal_voc_mAP_epoch_*.pth'))
    assert len(list(tmp_path.glob('cells-*.pth'))) == 1
    assert (tmp_path / 'cells.onnx').stat().st_size > 1e6
