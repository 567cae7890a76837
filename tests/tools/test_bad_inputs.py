# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Answers to bad inputs; these tests also write docs/bad_inputs.md.

MMRLA_WRITE_TABLE=1 makes them write it; otherwise they compare with it.
"""

import copy
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from .conftest import REPO, call, error_line, weights

PAGE = REPO / 'docs' / 'bad_inputs.md'
WRITE = bool(os.environ.get('MMRLA_WRITE_TABLE'))
COMMAND = 'MMRLA_WRITE_TABLE=1 python -m pytest tests/tools/test_bad_inputs.py'

HEAD = f"""# Bad inputs

How the tools answer wrong or unusual inputs. They refuse before training begins, with
the exit status in parentheses and one line that names the culprit and the remedy
(`MMRLA_DEBUG=1` adds the traceback). For data, `mmrla check` gives the same answers as
`mmrla train`.

`{COMMAND}` writes this page; without
the variable the test compares.
"""

#: Lines of the page by section and input, as they come up.
_lines: Dict[str, Dict[str, str]] = {}


@pytest.fixture(scope='module', autouse=True)
def _page():
    """Write the page at the end, if asked for."""
    yield
    if WRITE:
        parts = [HEAD]
        for section, lines in _lines.items():
            parts.append(f'## {section}\n\n| input | what it gets |\n|---|---|')
            parts[-1] += ''.join(f'\n| {k} | {v} |' for k, v in lines.items()) + '\n'
        PAGE.write_text('\n'.join(parts))


def record(section: str, name: str, text: str) -> None:
    """Add a line to the page, or compare it with the one there."""
    text = text.replace('|', '\\|')
    _lines.setdefault(section, {})[name] = text
    if not WRITE:
        _, _, rest = PAGE.read_text().partition(f'## {section}\n')
        found = re.search(
            rf'^\| {re.escape(name)} \| (.*) \|$', rest.partition('\n## ')[0], re.M
        )
        remedy = f'run {COMMAND} and look at the difference'
        assert found, f'{name!r} is not in {PAGE.name}: {remedy}'
        assert found.group(1) == text, remedy


def told(status: int, named: str) -> str:
    """A refusal in the words of the page."""
    return f'refused ({status}), naming `{named.strip()}`'


class Refused(NamedTuple):
    """Arguments that must end in one line."""

    args: List[str]
    message: str  # who is named


# --- arguments and configs ----------------------------------------------------

OPTIONS = '--cfg-options'


def _options(message: str, *options: str) -> Refused:
    return Refused(['{config}', OPTIONS, *options], message)


TRAIN = {
    'missing config': Refused(['{tmp}/none.py'], 'none.py'),
    'folder as config': Refused(['{tmp}'], 'config '),
    'config with a syntax error': Refused(['{syntax}'], 'syntax.py'),
    'missing base': Refused(['{nobase}'], 'nobase.py'),
    'base file as config': Refused(['{empty}'], 'empty.py'),
    'option that matches nothing': _options(
        '--cfg-options', 'train_dataloader.dataset.pipeline.9.x=1'
    ),
    'missing data root': _options(
        'train_dataloader.dataset.data_root',
        'train_dataloader.dataset.data_root=nowhere',
    ),
    'missing image folder': _options(
        'val_dataloader.dataset.data_prefix.img',
        'val_dataloader.dataset.data_prefix.img=nope',
    ),
    'missing annotation file': _options(
        'train_dataloader.dataset.ann_file', 'train_dataloader.dataset.ann_file=x.json'
    ),
    'missing annotation file of the metric': _options(
        'val_evaluator.ann_file', 'val_evaluator.ann_file=x.json'
    ),
    '--auto-scale-lr without a batch size': Refused(
        ['{config}', '--auto-scale-lr'], 'base_batch_size'
    ),
    '--amp with a custom optimizer wrapper': Refused(
        ['{config}', '--amp', OPTIONS, 'optim_wrapper.type=Mine'], '--amp'
    ),
    '--resume with a missing file': Refused(['{config}', '--resume', 'x.pth'], 'x.pth'),
    '--resume with a torn checkpoint': Refused(
        ['{config}', '--resume', '{torn}'], 'torn.pth'
    ),
    '--resume with weights only': Refused(
        ['{config}', '--resume', '{weights}'], 'weights.pth'
    ),
    'missing load_from': _options('x.pth', 'load_from=x.pth'),
    'missing pretrained weights': _options(
        'x.pth',
        'model.backbone.init_cfg.type=Pretrained',
        'model.backbone.init_cfg.checkpoint=x.pth',
    ),
    'file as work_dir': Refused(['{config}', '--work-dir', '{config}'], '--work-dir'),
    'launcher that did not start the process': Refused(
        ['{config}', '--launcher', 'slurm'], 'SLURM_PROCID'
    ),
}
_POOLING = 'model.neck._delete_=True', 'model.neck.type=GlobalAveragePooling'
#: These are found when the model and the data are built.
VALUES = {
    'unknown depth': _options('51', 'model.backbone.depth=51'),
    'unknown argument': _options("'dept'", 'model.backbone.dept=50'),
    'unknown class': _options('RLAResNett', 'model.backbone.type=RLAResNett'),
    'unknown transform': _options(
        ' No ', 'train_dataloader.dataset.pipeline.0.type=No'
    ),
    'unknown metric': _options('box', 'val_evaluator.metric=box'),
    'head with more classes than the data': _options(
        'roi_head.bbox_head', 'model.roi_head.bbox_head.num_classes=3'
    ),
    'hidden state for a neck that does not take it': _options(
        'return_hidden', 'model.backbone.return_hidden=True'
    ),
    'hidden state for a pooling that does not take it': Refused(
        ['{classifier}', OPTIONS, *_POOLING],
        'return_hidden',
    ),
    'masks required but not annotated': _options(
        'without.json',
        'train_dataloader.dataset.ann_file={tmp}/without.json',
        'train_dataloader.dataset.pipeline.1.with_mask=True',
    ),
    'classifier with too few classes': Refused(
        ['{classifier}', OPTIONS, 'model.head.num_classes=1'], 'head '
    ),
}
#: These are found when the training is built, or what it starts from is loaded.
LATE = {
    'unknown optimizer': _options(
        "optim_wrapper.optimizer.type='Adamm'", 'optim_wrapper.optimizer.type=Adamm'
    ),
    'unknown argument of the optimizer': _options(
        'optim_wrapper.optimizer.lrr=1', 'optim_wrapper.optimizer.lrr=1'
    ),
    'unknown optimizer constructor': _options(
        "optim_wrapper.constructor='None1'", 'optim_wrapper.constructor=None1'
    ),
    'layer-wise decay of mmdet': _options(
        'not RLAResNet',
        'optim_wrapper.constructor=LearningRateDecayOptimizerConstructor',
    ),
    'unknown scheduler': _options(
        "param_scheduler.0.type='LinearLRR'", 'param_scheduler.0.type=LinearLRR'
    ),
    'unknown loop': _options("train_cfg.type='NoLoop'", 'train_cfg.type=NoLoop'),
    'unknown hook': _options(
        "default_hooks.timer.type='NoHook'", 'default_hooks.timer.type=NoHook'
    ),
    'wrong argument of gradient clipping': _options(
        "optim_wrapper: TypeError: missing a required argument: 'max_norm'",
        'optim_wrapper.clip_grad.max_norms=1',
    ),
    'unknown argument of a hook': _options(
        "default_hooks.timer.type='EMAHook'",
        'default_hooks.timer.type=EMAHook',
        'default_hooks.timer.momentums=1',
    ),
    'validation every 0 epochs': _options(
        'train_cfg.val_interval=0', 'train_cfg.val_interval=0'
    ),
    'hook that does not fit the model': _options(
        "default_hooks.timer.type='MeanTeacherHook'",
        'default_hooks.timer.type=MeanTeacherHook',
    ),
    'efficient_conv_bn_eval of an RLA backbone': _options(
        'in RLAResNet', 'efficient_conv_bn_eval=backbone'
    ),
    'load_from of another network': _options(
        'belongs to another network', 'load_from={tmp}/other.pth'
    ),
}
TEST = {
    'missing checkpoint': Refused(['{config}', '{tmp}/none.pth'], 'none.pth'),
    'folder as checkpoint': Refused(['{config}', '{tmp}'], 'checkpoint '),
    'empty file as checkpoint': Refused(['{config}', '{tmp}/zero.pth'], 'zero.pth'),
    'truncated checkpoint': Refused(['{config}', '{torn}'], 'torn.pth'),
    'web page as checkpoint': Refused(['{config}', '{tmp}/text.pth'], 'text.pth'),
    'checkpoint without weights': Refused(
        ['{config}', '{tmp}/nothing.pth'], 'nothing.pth'
    ),
    'weights of another network': Refused(['{config}', '{tmp}/other.pth'], 'other.pth'),
    'weights of only a part of the network': Refused(
        ['{config}', '{tmp}/partly.pth'], 'roi_head.bbox_head.fc_cls.weight'
    ),
    'weights of another width': Refused(
        ['{config}', '{good}', OPTIONS, 'model.neck.out_channels=24'],
        'neck.lateral_convs.0.conv.weight',
    ),
    '--out that is not a pickle file': Refused(
        ['{config}', '{good}', '--out', 'out.json'], 'out.json'
    ),
    '--tta with masks': Refused(
        ['{config}', '{good}', '--tta', OPTIONS, 'test_evaluator.metric=segm'], '--tta'
    ),
    '--show without a visualization hook': Refused(
        ['{config}', '{good}', '--show', OPTIONS, 'default_hooks.visualization=None'],
        'default_hooks.visualization',
    ),
    'missing test data': Refused(
        ['{config}', '{good}', OPTIONS, 'test_dataloader.dataset.data_root=nowhere'],
        'test_dataloader.dataset.data_root',
    ),
}


@pytest.fixture(scope='module')
def files(tmp_path_factory, detector_config, classifier_config, tiny_coco, trained):
    """The files that the arguments above name."""
    tmp = tmp_path_factory.mktemp('files')
    state = weights(trained / 'epoch_2.pth')
    torch.save(state, tmp / 'weights.pth')
    torch.save({'state_dict': {'fc.weight': torch.zeros(1)}}, tmp / 'other.pth')
    torch.save({'epoch': 3}, tmp / 'nothing.pth')
    partly = {k: v for k, v in state.items() if not k.startswith('roi_head')}
    torch.save(partly, tmp / 'partly.pth')
    whole = (trained / 'epoch_2.pth').read_bytes()
    (tmp / 'torn.pth').write_bytes(whole[: len(whole) // 2])
    (tmp / 'text.pth').write_text('<html>404</html>')
    (tmp / 'zero.pth').write_bytes(b'')
    texts = {'syntax': 'a = (', 'nobase': "_base_ = 'x.py'", 'empty': 'a = 1'}
    for name, text in texts.items():
        (tmp / f'{name}.py').write_text(text)
    content = json.loads((tiny_coco / 'annotations/train.json').read_text())
    content['annotations'][3]['segmentation'] = []
    (tmp / 'without.json').write_text(json.dumps(content))
    return dict(
        tmp=tmp,
        config=detector_config,
        classifier=classifier_config,
        good=trained / 'epoch_2.pth',
        torn=tmp / 'torn.pth',
        weights=tmp / 'weights.pth',
        **{name: tmp / f'{name}.py' for name in texts},
    )


ARGUMENTS = [
    *(('train', 'Training', *row) for row in {**TRAIN, **VALUES, **LATE}.items()),
    *(('test', 'Testing', *row) for row in TEST.items()),
]


@pytest.mark.parametrize(
    'tool, section, name, row',
    ARGUMENTS,
    ids=[f'{tool}-{name}' for tool, _, name, _ in ARGUMENTS],
)
def test_arguments(tool, section, name, row, files, capsys, tmp_path, monkeypatch):
    """Each gives one line and an exit status, and leaves no work_dir."""
    monkeypatch.chdir(tmp_path)
    status, line = error_line(capsys, tool, *(arg.format(**files) for arg in row.args))
    assert status in (1, 2)
    assert row.message in line
    record(section, name, told(status, row.message))
    assert not Path('work_dirs').exists()


# --- annotation files ---------------------------------------------------------

Content = Dict[str, Any]


def _without(kind: str, key: str) -> Callable[[Content], Any]:
    return lambda content: content[kind][1].pop(key)


def _with(kind: str, **values: Any) -> Callable[[Content], None]:
    return lambda content: content[kind][1].update(values)


ANNOTATIONS: Dict[str, Any] = {
    'text': ('# nothing', 'train.json'),
    'half a file': (b'{"images": [{"id": 1,', 'train.json'),
    'UTF-16': ('{}'.encode('utf-16'), 'train.json'),
    'empty file': ('', 'train.json'),
    'list': ('[]', 'train.json'),
    'no images': (lambda c: c.pop('images'), 'images'),
    'no categories': (lambda c: c.pop('categories'), 'categories'),
    'images by name': (lambda c: c.update(images={'a': 1}), 'images'),
    'entry that is not an object': (
        lambda c: c['annotations'].append(3),
        'entry 16 of annotations',
    ),
    'image without a file': (_without('images', 'file_name'), "'file_name'"),
    'image without a height': (_without('images', 'height'), "'height'"),
    'image of width 0': (_with('images', width=0), 'width=0'),
    'image of width "64"': (_with('images', width='64'), "width='64'"),
    'two images with one id': (_with('images', id=0), 'id 0 of images'),
    'list as id': (_with('images', id=[1]), 'id [1] of images'),
    'two boxes with one id': (_with('annotations', id=1), 'id 1 of annotations'),
    'two categories with one id': (_with('categories', id=1), 'id 1 of categories'),
    'two categories with one name': (_with('categories', name='red'), "'red'"),
    'object without a box': (_without('annotations', 'bbox'), "'bbox'"),
    'object without an area': (_without('annotations', 'area'), "'area'"),
    'object without a category': (
        _without('annotations', 'category_id'),
        "'category_id'",
    ),
    'object without an image': (_without('annotations', 'image_id'), "'image_id'"),
    'box of three numbers': (_with('annotations', bbox=[1, 2, 3]), 'bbox=[1, 2, 3]'),
    'box with NaN': (
        _with('annotations', bbox=[1, 2, float('nan'), 4]),
        'bbox=[1, 2, nan, 4]',
    ),
    'box of text': (_with('annotations', bbox='1 2 3 4'), "bbox='1 2 3 4'"),
    'area null': (_with('annotations', area=None), 'area=None'),
    'none of the classes': (
        lambda c: [cat.update(name=cat['name'].upper()) for cat in c['categories']],
        'train_dataloader.dataset.metainfo.classes',
    ),
    'no category for the first class': (lambda c: c['categories'].pop(0), "'blue'"),
    'categories in another order than the classes': (
        lambda c: c['categories'].reverse(),
        "'blue'",
    ),
    'no image left': (lambda c: c.update(images=[]), 'data.py'),
    'image much wider than high': (_with('images', width=9000, height=20), '9000x20'),
    'file that is not an image': (_with('images', file_name='x.png'), 'x.png'),
}

#: No model: for what is found in the data alone.
DATA = """
default_scope = 'mmdet'
custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
train_dataloader = dict(dataset=dict(
    type='CocoDataset', data_root={root!r}, ann_file='annotations/train.json',
    data_prefix=dict(img='train/'), metainfo=dict(classes=('red', 'blue')),
    pipeline=[dict(type='LoadImageFromFile'),
              dict(type='LoadAnnotations', with_bbox=True),
              dict(type='Resize', scale=(64, 64), keep_ratio=True),
              dict(type='PackDetInputs')]))
"""


@pytest.fixture
def coco(tiny_coco, tmp_path):
    """A copy of the data set to be spoilt, and its config."""
    root = tmp_path / 'coco'
    shutil.copytree(tiny_coco, root)
    (tmp_path / 'data.py').write_text(DATA.format(root=str(root)))
    return root


def refuse_data(section, name, message, config, capsys):
    """Check data that must be refused, and record the answer."""
    status, line = error_line(capsys, 'misc/check_data', config)
    assert status == 2
    assert message in line
    record(section, name, told(status, message))


@pytest.mark.parametrize('name', ANNOTATIONS)
def test_annotation_files(name, coco, capsys, tmp_path):
    spoil, message = ANNOTATIONS[name]
    path = coco / 'annotations/train.json'
    if callable(spoil):
        content = json.loads(path.read_text())
        spoil(content)
        spoil = json.dumps(content)
    path.write_bytes(spoil.encode() if isinstance(spoil, str) else spoil)
    refuse_data('Annotation files', name, message, tmp_path / 'data.py', capsys)


def test_training_refuses_bad_annotations(coco, detector_config, capsys, tmp_path):
    """In any part, before the first step."""
    path = coco / 'annotations/val.json'
    content = json.loads(path.read_text())
    content['annotations'][1]['id'] = content['annotations'][0]['id']
    path.write_text(json.dumps(content))
    options = OPTIONS, f'val_dataloader.dataset.data_root={coco}'
    args = detector_config, '--work-dir', tmp_path / 'w', *options
    status, line = error_line(capsys, 'train', *args)
    assert (status, f'{path}: id 1 of annotations is there twice' in line) == (2, True)
    assert not list(tmp_path.rglob('*.pth'))


# --- images -------------------------------------------------------------------


def _cut(name: str, share: float) -> Callable[[Path], None]:
    """Replace an image by a cut-off one of another format."""

    def spoil(path: Path) -> None:
        image = Image.open(path).convert('RGB')
        image.save(path.with_name(name))
        content = path.with_name(name).read_bytes()
        path.with_name(name).unlink()
        path.write_bytes(content[: int(len(content) * share)])

    return spoil


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


IMAGES: Dict[str, Any] = {
    'not there': (Path.unlink, '003.png'),
    'empty file': (lambda path: path.write_bytes(b''), '003.png'),
    'text': (lambda path: path.write_text('no image\n' * 99), '003.png'),
    'web page': (lambda path: path.write_text('<html>404 Not Found</html>'), '003.png'),
    'half a PNG': (_cut('x.png', 0.5), '003.png'),
    'half a JPEG': (_cut('x.jpg', 0.5), '003.png'),
    'JPEG without its last bytes': (_cut('x.jpg', 0.99), '003.png'),
    'beginning of a PNG': (_cut('x.png', 0.02), '003.png'),
    'half a TIFF': (_cut('x.tif', 0.5), '003.png'),
    'half a BMP': (_cut('x.bmp', 0.5), '003.png'),
    'GIF, which OpenCV does not read': (_cut('x.gif', 1), '003.png'),
    'folder': (_folder, '003.png'),
}


@pytest.mark.parametrize('name', IMAGES)
def test_image_files(name, coco, capsys, tmp_path):
    spoil, message = IMAGES[name]
    if name.startswith('GIF') and int(cv2.__version__.partition('.')[0]) >= 5:
        pytest.skip('OpenCV 5 reads GIF')
    spoil(coco / 'train' / '003.png')
    refuse_data('Images of a detector', name, message, tmp_path / 'data.py', capsys)


# --- class folders ------------------------------------------------------------


def _half_an_image(root: Path) -> None:
    _cut('x.png', 0.5)(root / 'train/light/light0.png')


def _no_image(root: Path) -> None:
    for path in (root / 'train/dark').iterdir():
        path.unlink()


def _no_folders(root: Path) -> None:
    shutil.rmtree(root / 'train')
    (root / 'train').mkdir()


FOLDERS: Dict[str, Any] = {
    'image that is text': (
        lambda root: (root / 'train/dark/dark1.png').write_text('x' * 99),
        'dark1.png',
    ),
    'half an image': (_half_an_image, 'light0.png'),
    'no folders of classes': (_no_folders, 'folders/train'),
    'class without an image': (_no_image, 'train/dark'),
    'other classes in val': (
        lambda root: (root / 'val/dark').rename(root / 'val/darker'),
        "'dark'",
    ),
    'missing folder of the split': (
        lambda root: (root / 'train').rename(root / 'training'),
        'folders/train',
    ),
}


@pytest.mark.parametrize('name', FOLDERS)
def test_class_folders(name, tiny_folders, classifier_config, capsys, tmp_path):
    spoil, message = FOLDERS[name]
    root = tmp_path / 'folders'
    shutil.copytree(tiny_folders, root)
    spoil(root)
    config = tmp_path / 'data.py'
    text = classifier_config.read_text()
    config.write_text(text.replace(repr(str(tiny_folders)), repr(str(root))))
    refuse_data('Images of a classifier', name, message, config, capsys)


# --- what is used -------------------------------------------------------------


class Used(NamedTuple):
    """Something unusual that is trained on.

    Attributes:
        text: What becomes of it.
        kept: How many boxes the data set has of it.
        annotations: Changes of a good box, one entry a box; None for no box.
        image: Makes the image of a good one.
    """

    text: str
    kept: int = 1
    annotations: Optional[Dict[str, Any]] = {}
    image: Optional[Callable[[Image.Image], Image.Image]] = None
    suffix: str = '.png'


def _sized(width: int, height: int) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize((width, height))


def _deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert('L')).astype(np.uint16) * 257)


AS_IMAGE = 'used, its box too'
USED = {
    'image without a box': Used(
        'background; left out with filter_cfg.filter_empty_gt=True', 0, None
    ),
    'box without width': Used('left out', 0, dict(bbox=[9, 9, 0, 20])),
    'box with a negative width': Used('left out', 0, dict(bbox=[9, 9, -5, 20])),
    'box narrower than a pixel': Used('left out', 0, dict(bbox=[9, 9, 0.5, 20])),
    'area 0': Used('left out', 0, dict(area=0)),
    'box outside of the image': Used('left out', 0, dict(bbox=[99, 9, 20, 20])),
    'box partly outside': Used(
        'used, cut at the edge by the transforms', 1, dict(bbox=[-9, 50, 40, 40])
    ),
    'crowd': Used('neither object nor background', 1, dict(iscrowd=1)),
    'box with ignore': Used('left out', 0, dict(ignore=1)),
    'box of a class that the config does not name': Used(
        'left out', 0, dict(category_id=3)
    ),
    'box of a category that is not in the file': Used(
        'left out, with a warning', 0, dict(category_id=9)
    ),
    'box of an image that is not in the file': Used(
        'left out, with a warning', 0, dict(image_id=999)
    ),
    'grey image': Used(AS_IMAGE, image=lambda image: image.convert('L')),
    'black and white image': Used(AS_IMAGE, image=lambda image: image.convert('1')),
    'grey image of 16 bits': Used(AS_IMAGE, image=_deep),
    'grey image with transparency': Used(
        'used without transparency', image=lambda image: image.convert('LA')
    ),
    'RGBA image': Used(
        'used without transparency', image=lambda image: image.convert('RGBA')
    ),
    'image with a palette': Used(AS_IMAGE, image=lambda image: image.convert('P')),
    'CMYK JPEG': Used(
        AS_IMAGE, image=lambda image: image.convert('CMYK'), suffix='.jpg'
    ),
    'BMP': Used(AS_IMAGE, suffix='.bmp'),
    'TIFF': Used(AS_IMAGE, suffix='.tif'),
    'WebP': Used(AS_IMAGE, suffix='.webp'),
    'image of 1x1 pixels': Used(
        'used, enlarged; its box', 1, dict(bbox=[0, 0, 1, 1], area=1), _sized(1, 1)
    ),
    'image of 64x1 pixels': Used(
        'used', 1, dict(bbox=[9, 0, 20, 1], area=20), _sized(64, 1)
    ),
    'image of 2x100 pixels': Used(
        'used', 1, dict(bbox=[0, 9, 2, 20], area=40), _sized(2, 100)
    ),
    'image of 6000x60 pixels': Used(
        'used, reduced to a strip', 1, dict(bbox=[9, 9, 2000, 40]), _sized(6000, 60)
    ),
}


@pytest.fixture(scope='module')
def unusual(tiny_coco, tmp_path_factory):
    """A data set of everything in ``USED``, one image each."""
    root = tmp_path_factory.mktemp('unusual')
    (root / 'annotations').mkdir()
    (root / 'train').mkdir()
    content = json.loads((tiny_coco / 'annotations/train.json').read_text())
    good = content['annotations'][0]
    image = Image.open(tiny_coco / 'train' / '000.png')
    images, boxes = [], []
    for number, row in enumerate(USED.values()):
        made = row.image(image) if row.image else image
        name = f'{number:03d}{row.suffix}'
        made.save(root / 'train' / name)
        width, height = made.size
        images.append(dict(id=number, file_name=name, width=width, height=height))
        if row.annotations is not None:
            box = dict(copy.deepcopy(good), id=number, image_id=number)
            boxes.append({**box, **row.annotations})
    categories = [*content['categories'], dict(id=3, name='green')]
    content = dict(images=images, annotations=boxes, categories=categories)
    (root / 'annotations/train.json').write_text(json.dumps(content))
    return root


@pytest.fixture(scope='module')
def instances(unusual):
    """The boxes of each image, as mmdet's data set gives them."""
    import mmdet.datasets  # noqa: F401

    config = unusual / 'data.py'
    config.write_text(DATA.format(root=str(unusual)))
    cfg = Config.fromfile(config).train_dataloader.dataset
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg)
    return [dataset.get_data_info(i)['instances'] for i in range(len(dataset))]


@pytest.mark.parametrize('name', USED)
def test_unusual_data(name, instances):
    row = USED[name]
    found = instances[list(USED).index(name)]
    assert len(found) == row.kept
    if found:
        assert found[0]['ignore_flag'] == (name == 'crowd')
    record('What is used', name, row.text)


def test_training_on_unusual_data(unusual, detector_config, tmp_path):
    """Train and validate on all of ``USED``."""
    parts = 'train', 'val'
    options = [
        OPTIONS,
        *(f'{part}_dataloader.dataset.data_root={unusual}' for part in parts),
        *(f'{p}_dataloader.dataset.ann_file=annotations/train.json' for p in parts),
        *(f'{part}_dataloader.dataset.data_prefix.img=train/' for part in parts),
        f'val_evaluator.ann_file={unusual}/annotations/train.json',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
    ]
    call('train', detector_config, '--work-dir', tmp_path, *options)
    state = weights(tmp_path / 'epoch_1.pth')
    assert all(tensor.isfinite().all() for tensor in state.values())
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert f'Epoch(val) [1][{(len(USED) + 1) // 2}/' in log
    assert 'loss: nan' not in log


# --- the page -----------------------------------------------------------------


@pytest.mark.skipif(WRITE, reason='it is being written')
def test_page_lists_exactly_these_inputs():
    sections = {
        'Training': [*TRAIN, *VALUES, *LATE],
        'Testing': list(TEST),
        'Annotation files': list(ANNOTATIONS),
        'Images of a detector': list(IMAGES),
        'Images of a classifier': list(FOLDERS),
        'What is used': list(USED),
    }
    text = PAGE.read_text()
    assert text.startswith(HEAD)
    found = {
        part.partition('\n')[0]: re.findall(r'^\| (.+?) \| .* \|$', part, re.M)[1:]
        for part in text.split('\n## ')[1:]
    }
    assert found == sections
    assert sum(map(len, found.values())) >= 60
    assert str(REPO) not in text
    assert sys.prefix not in text
