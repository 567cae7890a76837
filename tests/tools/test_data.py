# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of data and metrics through the tools.

Faults are refused, and whatever upstream runs passes. The table of bad inputs is in
test_bad_inputs.py.
"""

import importlib.util
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import Registry
from PIL import Image

from .conftest import call, error_line, metrics, weights

CHECK = 'misc/check_data'


def edit(path, change):
    """Edit a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def each_annotation(change):
    """An edit of a file that edits each annotation."""

    def edit_all(content):
        for annotation in content['annotations']:
            change(annotation)

    return edit_all


@pytest.fixture
def root(tiny_coco, tmp_path):
    """A copy of the data set, to be edited."""
    shutil.copytree(tiny_coco, tmp_path / 'coco')
    return tmp_path / 'coco'


@pytest.fixture
def config(root, detector_config, tiny_coco, tmp_path):
    """Writes configs that inherit the detector's, on the copied data set."""
    text = detector_config.read_text()
    (tmp_path / 'base.py').write_text(
        text.replace(repr(str(tiny_coco)), repr(str(root)))
    )

    def write(text='', name='config.py'):
        (tmp_path / name).write_text(f"_base_ = './base.py'\n{text}\n")
        return tmp_path / name

    return write


def all_parts(text, parts=('train', 'val', 'test')):
    """Repeat a text for each data set of a config."""
    return '\n'.join(text.format(part=part) for part in parts)


def dataset(**changes):
    """Text of a config that changes every data set."""
    return all_parts('{part}_dataloader = dict(dataset=dict(%s))') % (
        (', '.join(f'{k}={v!r}' for k, v in changes.items()),) * 3
    )


def refused(capsys, tool, path, *words, extra=()):
    """Run a tool that must refuse a config and print these words."""
    work_dir = Path(path).parent / 'work'
    more = [] if tool == CHECK else ['--work-dir', work_dir]
    status, line = error_line(capsys, tool, path, *extra, *more)
    assert status in (1, 2)
    for word in words:
        assert word in line
    assert not work_dir.exists()
    return line


def told(capsys, path, *words, parts=('train', 'val', 'test')):
    """Check data that must pass, with these words in the output."""
    call(CHECK, path, '--parts', *parts)
    out = capsys.readouterr()
    for word in words:
        assert word in out.out + out.err
    return out.out + out.err


# --- classes ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('task', 'argument'),
    [('detector', 'metainfo'), ('classifier', 'metainfo'), ('classifier', 'classes')],
)
def test_string_instead_of_class_names(task, argument, request, tmp_path, capsys):
    base = request.getfixturevalue(f'{task}_config')
    value = dict(classes='dark') if argument == 'metainfo' else 'dark'
    text = f'_base_ = {str(base)!r}\n' + dataset(**{argument: value})
    (tmp_path / 'c.py').write_text(text)
    refused(capsys, CHECK, tmp_path / 'c.py', "'dark'", "classes=('dark',)")


def test_file_of_class_names(root, config, capsys):
    (root / 'names.txt').write_text('red\nblue\n')
    path = config(dataset(metainfo=dict(classes=str(root / 'names.txt'))))
    told(capsys, path, '8 images, 2 classes', 'red 8, blue 8')


@pytest.mark.parametrize('metainfo', ['red', dict(classes=('red', 'red'))])
def test_bad_metainfo(metainfo, config, capsys):
    path = config(dataset(metainfo=metainfo))
    refused(capsys, CHECK, path, 'train_dataloader.dataset.metainfo', "'red'")


@pytest.mark.parametrize('names', [(1, 2), {'red', 'blue'}, 'no/names.txt'])
def test_bad_class_names(names, config, capsys):
    line = refused(capsys, CHECK, config(dataset(metainfo=dict(classes=names))))
    assert 'train_dataloader.dataset.metainfo.classes' in line
    assert ('no/names.txt does not exist' in line) == isinstance(names, str)


def test_no_classes(config, capsys):
    """mmdet then takes no category."""
    path = config(dataset(metainfo=dict(classes=None)))
    refused(capsys, CHECK, path, 'has no object to train on')


def _rename(root, name):
    for split in ('train', 'val'):
        edit(
            root / f'annotations/{split}.json',
            lambda c: c['categories'][1].update(name=name),
        )


@pytest.mark.parametrize(('there', 'asked'), [('bush', 'bus'), ('cat', 'cattle')])
def test_similar_class_names_are_reported(there, asked, root, config, capsys):
    _rename(root, there)
    path = config(dataset(metainfo=dict(classes=('red', asked))))
    told(capsys, path, 'none of 1 of the 2 classes', f'{there!r} for {asked!r}')


@pytest.mark.parametrize(
    ('there', 'asked'), [('light-blue', 'Light Blue'), ('glass', 'Glasses')]
)
def test_misspelt_class_names_are_refused(there, asked, root, config, capsys):
    _rename(root, there)
    path = config(dataset(metainfo=dict(classes=('red', asked))))
    refused(capsys, CHECK, path, repr(there), repr(asked))


def test_duplicate_category(root, config, capsys):
    """Some exports have one: harmless, unless it is a class."""

    def add(*names):
        def change(content):
            content['categories'] += [
                dict(id=len(content['categories']) + 1 + i, name=name)
                for i, name in enumerate(names)
            ]

        edit(root / 'annotations/train.json', change)

    add('other', 'other')
    told(capsys, config(), '16 objects', parts=['train'])
    add('red')
    refused(capsys, CHECK, config(), "category 'red' twice", 'train.json')


@pytest.mark.parametrize('tool', [CHECK, 'train'])
def test_class_missing_from_annotations(tool, root, config, capsys):
    _rename(root, 'Platelets')
    path = config(dataset(metainfo=dict(classes=('red', 'platelet'))))
    refused(capsys, tool, path, "'platelet'", "'Platelets'", 'metainfo.classes')


def test_classes_forgotten(config, capsys):
    """COCO's classes apply then, and filtering leaves no image."""
    empty = dict(filter_empty_gt=True, min_size=32)
    path = config(dataset(filter_cfg=empty, metainfo=dict(_delete_=True)))
    words = 'train.json', 'red, blue', 'person', 'train_dataloader.dataset.metainfo'
    refused(capsys, CHECK, path, *words)


def write_voc(root, names=('red', 'blue')):
    """The data set as PASCAL VOC has it."""
    for split in ('train', 'val'):
        voc = root / 'voc' / split
        for folder in ('JPEGImages', 'Annotations'):
            (voc / folder).mkdir(parents=True)
        content = json.loads((root / f'annotations/{split}.json').read_text())
        for image in content['images']:
            stem = Path(image['file_name']).stem
            picture = Image.open(root / split / image['file_name'])
            picture.save(voc / f'JPEGImages/{stem}.jpg')
            objects = ''
            for a in content['annotations']:
                if a['image_id'] == image['id']:
                    x, y, w, h = a['bbox']
                    corners = zip(
                        ('xmin', 'ymin', 'xmax', 'ymax'),
                        (x + 1, y + 1, x + w + 1, y + h + 1),
                    )
                    box = ''.join(f'<{k}>{v}</{k}>' for k, v in corners)
                    name = names[a['category_id'] - 1]
                    objects += (
                        f'<object><name>{name}</name><bndbox>{box}</bndbox></object>'
                    )
            (voc / f'Annotations/{stem}.xml').write_text(
                '<annotation><size><width>64</width><height>64</height></size>'
                f'{objects}</annotation>'
            )
        stems = [Path(i['file_name']).stem for i in content['images']]
        (voc / 'list.txt').write_text('\n'.join(stems))


VOC = """
def _voc(split):
    return dict(dataset=dict(
        _delete_=True, type='XMLDataset', data_root={root!r} + split,
        ann_file='list.txt', data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes={classes!r}),
        filter_cfg=dict(filter_empty_gt={filter}), test_mode=split == 'val',
        pipeline=_base_.pipeline))
train_dataloader = _voc('train')
val_dataloader = test_dataloader = _voc('val')
val_evaluator = test_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP')
"""


@pytest.mark.parametrize('filters', [False, True])
def test_other_classes_in_voc(filters, root, config, capsys):
    write_voc(root, ('rot', 'blau'))
    text = VOC.format(root=f'{root}/voc/', classes=('cat', 'dog'), filter=filters)
    refused(capsys, CHECK, config(text), 'blau, rot', 'cat, dog')


def test_voc_is_trained(root, config, tmp_path):
    write_voc(root)
    text = VOC.format(root=f'{root}/voc/', classes=('red', 'blue'), filter=True)
    call('train', config(text), '--work-dir', tmp_path / 'w')
    assert (tmp_path / 'w/epoch_2.pth').is_file()


# --- objects ------------------------------------------------------------------


@pytest.mark.parametrize('tool', [CHECK, 'train'])
def test_boxes_from_0_to_1(tool, root, config, capsys):
    change = each_annotation(lambda a: a.update(bbox=[v / 64 for v in a['bbox']]))
    edit(root / 'annotations/train.json', change)
    words = 'train_dataloader.dataset', '16 narrower than a pixel'
    refused(capsys, tool, config(), *words)


def test_boxes_from_0_to_1_in_voc(root, config, capsys):
    """mmdet keeps them there, as boxes without an area."""
    change = each_annotation(lambda a: a.update(bbox=[v / 64 for v in a['bbox']]))
    edit(root / 'annotations/train.json', change)
    write_voc(root)
    text = VOC.format(root=f'{root}/voc/', classes=('red', 'blue'), filter=False)
    refused(capsys, CHECK, config(text), 'train', '16 without an area')


def _corners(a):
    x, y, w, h = a['bbox']
    a['bbox'] = [x, y, x + w, y + h]


def _swapped(a):
    x, y, w, h = a['bbox']
    a['bbox'] = [64 - w, 64 - h, h, w]


@pytest.mark.parametrize(
    ('change', 'meant'),
    [(_corners, 'x1, y1, x2, y2'), (_swapped, 'x, y, height, width')],
)
def test_boxes_in_other_formats_are_reported(change, meant, root, config, capsys):
    for split in ('train', 'val'):
        edit(root / f'annotations/{split}.json', each_annotation(change))
    out = told(capsys, config(), f'all would fit as {meant}', 'reach out of their')
    assert '8 images, 2 classes' in out


def test_object_counts(root, config, capsys):
    def change(content):
        annotations = content['annotations']
        annotations[0]['bbox'][2] = 0.5
        annotations[1]['iscrowd'] = 1
        annotations[2]['bbox'][0] = 500
        annotations[3]['area'] = 0
        annotations[4]['category_id'] = 9
        annotations[5]['ignore'] = 1

    edit(root / 'annotations/train.json', change)
    words = (
        'train: 8 images, 2 classes',
        '10 objects (red 5, blue 5), 1 ignored',
        '1 narrower than a pixel',
        '1 outside of the image',
        '1 without an area',
        '1 of other classes',
        '1 marked ignore',
    )
    told(capsys, config(), *words, parts=['train'])


@pytest.mark.parametrize(('tool', 'extra'), [('test', ()), ('train', ('--resume',))])
def test_checkpoint_with_reordered_classes(tool, extra, root, config, trained, capsys):
    for split in ('train', 'val'):
        edit(root / f'annotations/{split}.json', lambda c: c['categories'].reverse())
    path = config(dataset(metainfo=dict(classes=('blue', 'red'))))
    checkpoint = trained / 'epoch_2.pth'
    words = 'epoch_2.pth', "class 0 is 'red' there and 'blue' here"
    refused(capsys, tool, path, *words, extra=(*extra, checkpoint))


def test_checkpoint_with_other_classes(root, config, trained, tmp_path):
    """A class may have been renamed."""
    _rename(root, 'azure')
    path = config(dataset(metainfo=dict(classes=('red', 'azure'))))
    call('test', path, trained / 'epoch_2.pth', '--work-dir', tmp_path / 'w')
    log = next((tmp_path / 'w').glob('*/*.log')).read_text()
    assert "class 1 is 'blue' there and 'azure' here" in log


# --- masks and metrics --------------------------------------------------------

MASKS = """
pipeline = _base_.pipeline
pipeline[1]['with_mask'] = True
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=pipeline))
val_evaluator = test_evaluator = dict(metric=['bbox', 'segm'])
"""


def _other_size(a):
    a['segmentation'] = dict(size=[64, 80], counts=[64 * 80 - 100, 100])


def _of_two_points(a):
    a['segmentation'] = [a['segmentation'][0][:4]]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_rle_masks_of_other_size(split, root, config, capsys):
    edit(root / f'annotations/{split}.json', each_annotation(_other_size))
    refused(capsys, CHECK, config(MASKS), f'{split}.json', '[64, 80]', '[64, 64]')


def test_polygons_of_two_points(root, config, capsys):
    """mmdet ignores these objects; here all of them."""
    edit(root / 'annotations/train.json', each_annotation(_of_two_points))
    refused(capsys, CHECK, config(MASKS), 'no object', '16 with polygons')


def test_no_iscrowd(root, config, capsys):
    change = each_annotation(lambda a: a.pop('iscrowd'))
    edit(root / 'annotations/train.json', change)
    told(capsys, config(), '16 objects')  # nobody asks for it in training
    edit(root / 'annotations/val.json', change)
    refused(capsys, CHECK, config(), 'val_evaluator', "'iscrowd'")


def _other_ids(content):
    for image in content['images']:
        image['id'] += 100
    for annotation in content['annotations']:
        annotation['image_id'] += 100


OTHER_TRUTH = {
    'boxes': (
        each_annotation(lambda a: a.update(bbox=[0, 0, 9, 9])),
        ('5 of 5', 'val.json'),
    ),
    'images': (_other_ids, ('5 of 5',)),
    'categories': (lambda c: c['categories'].reverse(), ("class 0 is 'blue'",)),
    'better boxes': (
        each_annotation(lambda a: a['bbox'].append(a['bbox'].pop() + 1)),
        None,
    ),
}


@pytest.mark.parametrize(
    ('tool', 'name'), [*((CHECK, name) for name in OTHER_TRUTH), ('train', 'boxes')]
)
def test_metric_with_other_ground_truth(tool, name, root, config, capsys, tmp_path):
    change, words = OTHER_TRUTH[name]
    path = tmp_path / 'other.json'
    shutil.copy(root / 'annotations/val.json', path)
    edit(path, change)
    cfg = config(f'val_evaluator = dict(ann_file={str(path)!r})')
    if words is None:  # of the same objects
        told(capsys, cfg)
    else:
        refused(capsys, tool, cfg, 'val_evaluator', *words)


@pytest.mark.parametrize('indices', ['2', '[1,3]'])
def test_subset_is_scored_alone(indices, root, config, trained, tmp_path):
    """The scores are those of a file with just these images."""
    option = f'test_dataloader.dataset.indices={indices}'
    ids = [0, 1] if indices == '2' else [1, 3]
    path = tmp_path / 'subset.json'
    shutil.copy(root / 'annotations/val.json', path)

    def change(content):
        content['images'] = [i for i in content['images'] if i['id'] in ids]
        found = (a for a in content['annotations'] if a['image_id'] in ids)
        content['annotations'] = list(found)

    edit(path, change)
    tables = []
    for ann_file in (path, root / 'annotations/val.json'):
        work_dir = tmp_path / ann_file.stem
        options = option, f'test_evaluator.ann_file={ann_file}'
        args = '--work-dir', work_dir, '--cfg-options', *options
        call('test', config(), trained / 'epoch_2.pth', *args)
        tables.append(metrics(work_dir))
    assert len(tables[0]) == 6
    assert tables[0] == tables[1]


def test_fold_is_scored_alone(config, capsys):
    """Wrappers select images, too."""
    pytest.importorskip('mmpretrain')
    text = """
val_dataloader = dict(dataset=dict(
    _delete_=True, type='mmpretrain.KFoldDataset', num_splits=5, fold=1, test_mode=True,
    dataset=_base_.val_dataloader.dataset))
"""
    told(capsys, config(text), 'val_evaluator: 1 of the 5 images', parts=['val'])


def test_annotation_ids_from_0(root, config, capsys):
    """COCOeval takes the id 0 for no match."""

    def change(content):
        content['annotations'][0]['id'] = 0

    edit(root / 'annotations/val.json', change)
    told(capsys, config(), 'annotation of id 0', parts=['val'])


MULTI = """
a = _base_.val_dataloader.dataset
val_dataloader = test_dataloader = dict(
    dataset=dict(_delete_=True, type='ConcatDataset', datasets=[a, dict(a, indices=2)]))
val_evaluator = test_evaluator = dict(
    _delete_=True, type='MultiDatasetsEvaluator', dataset_prefixes=['one', 'two'],
    metrics=[dict(type='CocoMetric', ann_file={path!r})] * 2)
"""


def test_two_test_sets(root, config, trained, tmp_path):
    path = config(MULTI.format(path=f'{root}/annotations/val.json'))
    args = '--work-dir', tmp_path / 'w', '--out', tmp_path / 'out.pkl'
    call('test', path, trained / 'epoch_2.pth', *args)
    with (tmp_path / 'out.pkl').open('rb') as file:
        predictions = pickle.load(file)
    assert [p['img_id'] for p in predictions] == [0, 1, 2, 3, 4, 0, 1]
    assert {'one/coco/bbox_mAP', 'two/coco/bbox_mAP'} <= metrics(tmp_path / 'w').keys()


# --- images -------------------------------------------------------------------


def test_exif_rotation(root, config, capsys):
    """Phones store pictures lying that are shown standing."""
    picture = Image.open(root / 'train/003.png').resize((64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(root / 'train/003.jpg', exif=exif)

    def change(content):
        content['images'][3].update(file_name='003.jpg', width=64, height=48)

    edit(root / 'annotations/train.json', change)
    told(capsys, config(), '1 images do not have the size', '003.jpg is 48x64, not')
    kept = '\npipeline = _base_.pipeline\n'
    kept += "pipeline[0]['color_type'] = 'color_ignore_orientation'\n"
    kept += 'train_dataloader = dict(dataset=dict(pipeline=pipeline))'
    assert 'do not have the size' not in told(capsys, config(kept))


def test_resized_after_annotation(root, config, capsys, tmp_path):
    for path in (root / 'train').iterdir():
        Image.open(path).resize((32, 32)).save(path)
    told(capsys, config(), '8 images do not have the size', '32x32, not 64x64')
    call('train', config(), '--work-dir', tmp_path / 'w')
    log = next((tmp_path / 'w').glob('*/*.log')).read_text()
    assert '8 images do not have the size' in log


BACKEND = """
import zipfile
from mmengine.fileio import LocalBackend, register_backend

@register_backend('testzip', force=True)
class TestZip(LocalBackend):
    def __init__(self, archive):
        self.archive = archive

    def get(self, path):
        name = '/'.join(str(path).split('/')[-2:])
        return zipfile.ZipFile(self.archive).read(name)
"""
ZIPPED = """
custom_imports = dict(imports=['mmrla', 'testzipbackend'], allow_failed_imports=False)
pipeline = _base_.pipeline
pipeline[0]['backend_args'] = dict(backend='testzip', archive={archive!r})
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""


@pytest.fixture
def zipped(root, config, tmp_path, monkeypatch):
    (tmp_path / 'testzipbackend.py').write_text(BACKEND)
    monkeypatch.syspath_prepend(tmp_path)
    with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
        for path in sorted(root.glob('*/*.png')):
            archive.write(path, path.relative_to(root))
    for split in ('train', 'val'):
        shutil.rmtree(root / split)
    return config(ZIPPED.format(archive=str(tmp_path / 'images.zip')))


def test_images_in_an_archive(zipped, tmp_path, capsys):
    told(capsys, zipped, '8 images, 2 classes')
    options = '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'
    call('train', zipped, '--work-dir', tmp_path / 'w', *options)
    assert weights(tmp_path / 'w/epoch_1.pth')


def test_image_missing_from_archive(zipped, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / 'images.zip') as archive:
        names = archive.namelist()
        kept = {name: archive.read(name) for name in names if '002' not in name}
    with zipfile.ZipFile(tmp_path / 'images.zip', 'w') as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    refused(capsys, CHECK, zipped, 'train/002.png')


@pytest.fixture
def unlabelled(classifier_config, tiny_folders, tmp_path):
    names = sorted((tiny_folders / 'train').glob('*/*.png'))
    lines = [str(name.relative_to(tiny_folders / 'train')) for name in names]
    (tmp_path / 'list.txt').write_text('\n'.join(lines))
    changes = dict(ann_file=str(tmp_path / 'list.txt'), with_label=False)
    text = f'_base_ = {str(classifier_config)!r}\n'
    text += f'train_dataloader = dict(dataset=dict({"**" + repr(changes)}))'
    (tmp_path / 'config.py').write_text(text)
    return tmp_path / 'config.py'


def test_list_without_labels(unlabelled, tmp_path, capsys):
    told(capsys, unlabelled, 'train: 8 images', parts=['train'])
    with (tmp_path / 'list.txt').open('a') as file:
        file.write('\ndark/none.png')
    refused(capsys, CHECK, unlabelled, 'dark/none.png')


def test_labels_beyond_classes(classifier_config, tiny_folders, tmp_path, capsys):
    """Lists of images need not name the classes."""
    (tmp_path / 'list.txt').write_text('dark/dark0.png 0\nlight/light0.png 2\n')
    change = dict(ann_file=str(tmp_path / 'list.txt'))
    for classes, tool, words in (
        (('dark', 'light'), CHECK, ('light0.png has the label 2', '2 classes')),
        (None, 'train', ('head is for 2 classes', 'train_dataloader.dataset has 3')),
    ):
        changes = dict(change, **(dict(classes=classes) if classes else {}))
        text = f'_base_ = {str(classifier_config)!r}\n'
        text += f'train_dataloader = dict(dataset=dict({"**" + repr(changes)}))'
        (tmp_path / 'config.py').write_text(text)
        refused(capsys, tool, tmp_path / 'config.py', *words)


LABELLED = {
    'fold': "dict(type='KFoldDataset', num_splits=2, dataset=a)",
    'subset': 'dict(a, indices=3)',
    'several labels': "dict(type='MultiLabelDataset', data_root=a.data_root, "
    "ann_file={path!r}, data_prefix='train', pipeline=a.pipeline)",
}


@pytest.mark.parametrize('name', LABELLED)
def test_classification_data_sets_pass(name, classifier_config, tmp_path, capsys):
    """Even without an image of some class, or with several labels per image."""
    image = dict(img_path='dark/dark0.png', gt_label=[0, 1])
    content = dict(metainfo=dict(classes=['dark', 'light']), data_list=[image])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    changed = LABELLED[name].format(path=str(tmp_path / 'a.json'))
    (tmp_path / 'c.py').write_text(
        f'_base_ = {str(classifier_config)!r}\na = _base_.train_dataloader.dataset\n'
        f'train_dataloader = dict(dataset=dict(_delete_=True, **{changed}))'
    )
    told(capsys, tmp_path / 'c.py', 'train: ', '2 classes', parts=['train'])


def test_tilde_in_paths(root, config, trained, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    shutil.copy(trained / 'epoch_2.pth', tmp_path)
    text = dataset(data_root='~/coco')
    text += "\nval_evaluator = dict(ann_file='~/coco/annotations/val.json')"
    resumed = '--resume', '~/epoch_2.pth', '--cfg-options', 'train_cfg.max_epochs=3'
    call('train', config(text), '--work-dir', '~/w', *resumed)
    assert (tmp_path / 'w/epoch_3.pth').is_file()


def test_annotations_are_read_once(root, config, tmp_path, monkeypatch):
    """By mmdet alone: reading COCO's takes long."""
    from mmdet.datasets import CocoDataset

    from mmrla.engine import coco

    original, read = CocoDataset.COCOAPI, coco.get_local_path
    paths: List[str] = []

    def get_local_path(path, **kwargs):
        paths.append(path)
        return read(path, **kwargs)

    monkeypatch.setattr(coco, 'get_local_path', get_local_path)
    options = '--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'
    call('train', config(), '--work-dir', tmp_path / 'w', *options)
    call(CHECK, config())
    assert not paths
    assert CocoDataset.COCOAPI is original
    # Nothing is kept.
    coco.read(str(root / 'annotations/train.json'))
    assert len(paths) == 1


def test_missing_albumentations(config, monkeypatch, capsys):
    monkeypatch.setattr('mmdet.datasets.transforms.transforms.albumentations', None)
    monkeypatch.setattr('mmdet.datasets.transforms.transforms.Compose', None)
    text = "pipeline = [*_base_.pipeline, dict(type='Albu', transforms=[])]\n"
    path = config(text + 'train_dataloader = dict(dataset=dict(pipeline=pipeline))')
    refused(capsys, 'train', path, "type='Albu'", 'albumentations is not installed')


# --- pictures and scopes ------------------------------------------------------


@pytest.mark.parametrize(('scale', 'warns'), [(64, False), (32, True)])
def test_annotations_loaded_before_resize_are_reported(
    scale, warns, config, trained, tmp_path, capsys
):
    text = f"""
pipeline = _base_.pipeline
pipeline[2]['scale'] = ({scale}, {scale})
test_dataloader = dict(dataset=dict(pipeline=pipeline))
"""
    args = '--work-dir', tmp_path / 'w', '--show-dir', 'shown'
    call('test', config(text), trained / 'epoch_2.pth', *args)
    out = capsys.readouterr()
    assert (
        'pipeline LoadAnnotations belongs after Resize' in out.out + out.err
    ) == warns


def _scoped(cfg):
    """Prefix all types with their library."""
    import mmdet.registry

    registries = [v for v in vars(mmdet.registry).values() if isinstance(v, Registry)]
    registries = [r for r in registries if r.scope == 'mmdet']
    if isinstance(cfg, dict):
        kind = cfg.get('type')
        if any(kind in r.module_dict for r in registries):
            cfg['type'] = f'mmdet.{kind}'
        for value in cfg.values():
            _scoped(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _scoped(value)


def test_no_default_scope(config, trained, tmp_path):
    """The class of the model tells its task."""
    cfg = Config.fromfile(config())
    _scoped(cfg._cfg_dict)
    cfg.default_scope = None
    cfg.dump(tmp_path / 'scoped.py')
    args = '--work-dir', tmp_path / 'w', '--tta', '--out', tmp_path / 'out.pkl'
    call('test', tmp_path / 'scoped.py', trained / 'epoch_2.pth', *args)
    with (tmp_path / 'out.pkl').open('rb') as file:
        prediction = pickle.load(file)[0]
    assert prediction['pred_instances']['bboxes'].shape[1] == 4
    assert np.isfinite(metrics(tmp_path / 'w')['coco/bbox_mAP'])


# --- what upstream runs -------------------------------------------------------

WRAPPED = {
    'repeated': "dict(type='RepeatDataset', times=2, dataset=a)",
    'balanced': "dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=a)",
    'concatenated': "dict(type='ConcatDataset', datasets=[a, dict(a, indices=[1])])",
    'lazy': 'dict(a, lazy_init=True)',
    'background': "dict(type='ConcatDataset', datasets=[a, empty])",
    'mixed': "dict(type='MultiImageMixDataset', dataset=a, pipeline=[dict("
    "type='Mosaic', img_scale=(64, 64)), dict(type='PackDetInputs')])",
    'unlabelled': "dict(type='ConcatDataset', datasets=[a, unlabelled])",
}


@pytest.mark.parametrize('name', WRAPPED)
def test_data_set_wrappers_pass(name, root, config, capsys):
    path = root / 'annotations/empty.json'
    shutil.copy(root / 'annotations/train.json', path)
    edit(path, lambda c: c.update(annotations=[]))
    text = f"""
a = dict(_base_.train_dataloader.dataset)
empty = dict(a, ann_file='annotations/empty.json')
unlabelled = dict(empty, pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadEmptyAnnotations'),
    dict(type='MultiBranch', branch_field=['sup', 'unsup'],
         unsup=[dict(type='PackDetInputs')])])
train_dataloader = dict(dataset=dict(_delete_=True, **{WRAPPED[name]}))
"""
    out = told(capsys, config(text), 'train:', '2 classes', parts=['train'])
    assert 'red 8, blue 8' in out


def _objects365(root):
    """mmdet sorts its categories, in the data set and in the metric."""
    for split in ('train', 'val'):
        edit(root / f'annotations/{split}.json', lambda c: c['categories'].reverse())
    return (
        dataset(type='Objects365V1Dataset')
        + """
val_evaluator = test_evaluator = dict(sort_categories=True)
"""
    )


def _crowdhuman(root):
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/{split}.json').read_text())
        lines = []
        for image in content['images']:
            name = Path(image['file_name'])
            Image.open(root / split / name).save(root / split / f'{name.stem}.jpg')
            found = [a for a in content['annotations'] if a['image_id'] == image['id']]
            boxes = [
                # Bodies go on behind the edge.
                dict(
                    tag='person',
                    fbox=[*a['bbox'][:2], 60, 60],
                    hbox=a['bbox'],
                    vbox=a['bbox'],
                    extra={},
                )
                for a in found
            ]
            boxes.append(dict(boxes[0], tag='mask', extra=dict(ignore=1)))
            lines.append(json.dumps(dict(ID=name.stem, gtboxes=boxes)))
        (root / f'annotations/{split}.odgt').write_text('\n'.join(lines))
    return f"""
def _crowd(split):
    return dict(dataset=dict(
        _delete_=True, type='CrowdHumanDataset', data_root={str(root)!r},
        ann_file=f'annotations/{{split}}.odgt', data_prefix=dict(img=split),
        test_mode=split == 'val', pipeline=_base_.pipeline))
train_dataloader = _crowd('train')
val_dataloader = test_dataloader = _crowd('val')
val_evaluator = test_evaluator = dict(
    _delete_=True, type='CrowdHumanMetric', metric=['AP'],
    ann_file={str(root)!r} + '/annotations/val.odgt')
"""


def _panoptic(root):
    for split in ('train', 'val'):
        content = json.loads((root / f'annotations/{split}.json').read_text())
        for category in content['categories']:
            category['isthing'] = int(category['name'] == 'red')
        annotations: Dict[int, List[dict]] = {i['id']: [] for i in content['images']}
        for a in content['annotations']:
            annotations[a['image_id']].append(
                {k: a[k] for k in ('id', 'category_id', 'bbox', 'area', 'iscrowd')}
            )
        content['annotations'] = [
            dict(image_id=i, file_name=f'{i:03d}.png', segments_info=segments)
            for i, segments in annotations.items()
        ]
        (root / f'annotations/p_{split}.json').write_text(json.dumps(content))
    if importlib.util.find_spec('panopticapi') is None:  # no package index has it
        loads, tested = 'pipeline.pop(1)', ''
    else:
        loads = "pipeline[1] = dict(type='LoadPanopticAnnotations')"
        tested = f"""
val_dataloader = test_dataloader = _pan('val')
val_evaluator = test_evaluator = dict(
    _delete_=True, type='CocoPanopticMetric', seg_prefix={str(root)!r} + '/val',
    ann_file={str(root)!r} + '/annotations/p_val.json')
"""
    return f"""
pipeline = _base_.pipeline
{loads}
def _pan(split):
    return dict(dataset=dict(
        _delete_=True, type='CocoPanopticDataset', data_root={str(root)!r},
        ann_file=f'annotations/p_{{split}}.json',
        data_prefix=dict(img=split, seg=split), test_mode=split == 'val',
        metainfo=dict(classes=('red', 'blue'), thing_classes=('red',),
                      stuff_classes=('blue',)), pipeline=pipeline))
train_dataloader = _pan('train')
{tested}"""


def _lvis(root):
    pytest.importorskip('lvis')
    for split in ('train', 'val'):

        def change(content, split=split):
            for image in content['images']:
                name = image.pop('file_name')
                image['coco_url'] = f'http://images.cocodataset.org/{split}/{name}'
                image.update(not_exhaustive_category_ids=[], neg_category_ids=[])
            for category in content['categories']:
                category['frequency'] = 'f'

        edit(root / f'annotations/{split}.json', change)
    return (
        dataset(type='LVISV1Dataset', data_prefix=dict(img=''))
        + f"""
val_evaluator = test_evaluator = dict(
    _delete_=True, type='LVISMetric', ann_file={str(root)!r} + '/annotations/val.json')
"""
    )


def _absolute(root):
    """Absolute paths, with an unused data root that does not exist."""
    return (
        dataset(data_root='nowhere')
        + '\n'
        + '\n'.join(
            f"{part}_dataloader['dataset'].update(ann_file='{root}/annotations/{split}.json',"
            f"data_prefix=dict(img='{root}/{split}'))"
            for part, split in (('train', 'train'), ('val', 'val'), ('test', 'val'))
        )
    )


def _testdev(root):
    """Images without annotations; predictions are written for a server."""
    edit(root / 'annotations/val.json', lambda c: c.pop('annotations'))
    return f"""
val_evaluator = test_evaluator = dict(format_only=True, outfile_prefix={str(root)!r})
"""


@pytest.mark.parametrize(
    'kind', [_objects365, _crowdhuman, _panoptic, _lvis, _absolute, _testdev]
)
def test_other_data_set_types_pass(kind, root, config, capsys):
    told(capsys, config(kind(root)), 'train: 8 images', 'val: 5 images')


PURE_PYTHON = """
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import CrossEntropyLoss, ImageClassifier, LinearClsHead

custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
default_scope = None
model = dict(
    type=ImageClassifier,
    backbone=dict(type='mmpretrain.RLAResNet', depth=50, rla_channels=4,
                  base_channels=8, stem_channels=8),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type=LinearClsHead, num_classes=2, in_channels=256,
              loss=dict(type=CrossEntropyLoss), topk=(1,)))
data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', num_classes=2)
loader = dict(batch_size=2, num_workers=0, sampler=dict(type=DefaultSampler))
data = dict(type=CustomDataset, data_root={root!r},
            pipeline=[dict(type=LoadImageFromFile), dict(type=PackInputs)])
train_dataloader = dict(loader, dataset=dict(data, data_prefix='train'))
val_dataloader = dict(loader, dataset=dict(data, data_prefix='val'))
test_dataloader = val_dataloader
val_evaluator = dict(type=Accuracy, topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
"""


def test_pure_python_config(tiny_folders, tmp_path, capsys):
    path = tmp_path / 'pure.py'
    path.write_text(PURE_PYTHON.format(root=str(tiny_folders)))
    told(capsys, path, 'train: 8 images, 2 classes')
    call('train', path, '--work-dir', tmp_path / 'w')
    dumped = Config.fromfile(next((tmp_path / 'w').glob('*/vis_data/config.py')))
    assert dumped.train_dataloader.collate_fn == dict(type='default_collate')
    args = '--work-dir', tmp_path / 't', '--tta', '--out', tmp_path / 'out.pkl'
    call('test', path, tmp_path / 'w/epoch_1.pth', *args)
    assert 'accuracy/top1' in metrics(tmp_path / 't')
    with (tmp_path / 'out.pkl').open('rb') as file:
        assert len(pickle.load(file)) == 6
