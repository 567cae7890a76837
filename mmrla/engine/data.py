# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Whether built data sets and metrics can be right (``tools/misc/check_data.py``).

Judged is what upstream has built, whatever the config says: classes, objects, images
and what the metrics compare with. What could not be built is explained in
:mod:`.layout`.
"""

import difflib
import os
import os.path as osp
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)
from xml.etree import ElementTree  # nosec B405 - as mmdet reads the same files

import numpy as np
from mmcv.transforms import LoadAnnotations
from mmengine.fileio import LocalBackend, get_file_backend, get_text
from mmengine.logging import print_log
from PIL import Image

from ..errors import UserError, one_line
from ..progress import Progress
from . import coco

__all__ = [
    'check_class_names',
    'check_data',
    'check_metrics',
    'check_pictures',
    'check_same_folders',
    'leaf_datasets',
    'number_of_labels',
]

# How much of a file's end is searched for the mark that ends an image: some have
# bytes after it. And how many images are looked at between looks at the clock.
_TAIL = 4096
_CHUNK = 512
# Images loaded of a data set that does not lie on the disk, if time is limited, and
# images whose objects are compared with the picture.
_SAMPLES = 32
# A box may reach so many pixels out of its image by rounding.
_ROUNDING = 2
# So large a part of boxes out of their images is worth a warning.
_MANY = 0.1
# EXIF's tag for how the camera was held; from 5 on, height and width are swapped.
_ORIENTATION, _TURNED = 0x0112, 5


class Objects:
    """What a data set holds of objects.

    Attributes:
        left: How many of each label are there to be found.
        ignored: How many are neither object nor background.
        useless: How many are nothing to be found, by the reason.
        beyond: How many reach out of their image.
        fits: How many would not if their box were meant otherwise, by what is meant.
        complete: Whether every image was looked at.
    """

    def __init__(self) -> None:
        self.left: Counter = Counter()
        self.useless: Counter = Counter()
        self.fits: Counter = Counter()
        self.ignored = self.beyond = 0
        self.complete = True

    def add(
        self, instance: Mapping[str, Any], size: Tuple[float, float], masks: bool
    ) -> None:
        """Count an object in an image of this width and height."""
        x1, y1, x2, y2 = instance['bbox']
        if instance.get('ignore_flag'):
            self.ignored += 1
            return
        width, height = size
        inside = min(x2, width) - max(x1, 0), min(y2, height) - max(y1, 0)
        if min(inside) <= 0:
            self.useless['without an area in their image'] += 1
            return
        mask = instance.get('mask')
        if masks and isinstance(mask, list) and not any(map(_has_inside, mask)):
            self.useless['with polygons of fewer than three points'] += 1
            return
        self.left[instance['bbox_label']] += 1
        w, h = x2 - x1, y2 - y1
        if not _fits(x1, y1, x2, y2, size):
            self.beyond += 1
        self.fits['x1, y1, x2, y2'] += w > x1 and h > y1 and _fits(x1, y1, w, h, size)
        self.fits['x, y, height, width'] += _fits(x1, y1, x1 + h, y1 + w, size)
        turned = height, width
        self.fits['images of swapped width and height'] += _fits(x1, y1, x2, y2, turned)

    def describe(self, classes: Sequence[str], dropped: Counter) -> str:
        """The counts, in words.

        Args:
            classes: Names by label.
            dropped: How many the data set has left out, by reason.
        """
        total = sum(self.left.values())
        each = ', '.join(f'{n} {self.left[i]}' for i, n in enumerate(classes[:10]))
        text = f'{total} objects ({each}{", ..." * (len(classes) > 10)})'
        if self.ignored:
            text += f', {self.ignored} ignored'
        text += ''.join(f', {n} {reason}' for reason, n in self.useless.items())
        if dropped:
            reasons = (f'{n} {reason}' for reason, n in dropped.items())
            text += f', left out: {", ".join(reasons)}'
        if self.beyond:
            text += f', {self.beyond} reach out of their image'
            better = [k for k, v in self.fits.items() if v == total]
            if better:
                text += f' (all would fit as {better[0]})'
        return text


def _fits(
    x1: float, y1: float, x2: float, y2: float, size: Tuple[float, float]
) -> bool:
    low, (width, height) = -_ROUNDING, size
    return min(x1, y1) >= low and x2 <= width + _ROUNDING and y2 <= height + _ROUNDING


def _has_inside(polygon: Sequence[float]) -> bool:
    """Whether mmdet uses it for a mask."""
    return len(polygon) % 2 == 0 and len(polygon) >= 6


class _Part(NamedTuple):
    """A data set that reads files, its key, and what its pipeline asks of it."""

    key: str
    dataset: Any
    transforms: List[Any]

    @property
    def classes(self) -> Optional[Sequence[str]]:
        metainfo = getattr(self.dataset, 'metainfo', None)
        return metainfo.get('classes') if isinstance(metainfo, dict) else None

    @property
    def source(self) -> str:
        return str(getattr(self.dataset, 'ann_file', '') or self.key)

    @property
    def is_tested(self) -> bool:
        return bool(getattr(self.dataset, 'test_mode', False))

    def loads(self, *what: str) -> bool:
        """Whether annotations are loaded with these arguments, such as with_mask."""
        return any(
            isinstance(t, LoadAnnotations) and all(getattr(t, w, False) for w in what)
            for t in self.transforms
        )

    def is_on_disk(self) -> bool:
        """Whether the images are files here, and not behind another backend."""
        path = self.dataset.get_data_info(0).get('img_path') if self.dataset else None
        if not isinstance(path, str):
            return False
        for load in self.transforms[:1]:
            args = getattr(load, 'backend_args', None)
            if getattr(load, 'file_client_args', None) or (
                type(get_file_backend(path, backend_args=args)) is not LocalBackend
            ):
                return False
        return True

    def infos(self) -> Iterator[Dict[str, Any]]:
        """What the data set knows of each image before it loads it."""
        return map(self.dataset.get_data_info, range(len(self.dataset)))


def leaf_datasets(dataset: Any, key: str) -> Iterator[Tuple[str, Any]]:
    """The data sets inside wrappers (repeated, balanced, concatenated, ...).

    Args:
        dataset: A data set, built or as a config.
        key (str): Its key in the config, such as 'train_dataloader.dataset'.

    Yields:
        The key and the data set or config of each that reads files.
    """
    inside = dataset if isinstance(dataset, dict) else getattr(dataset, '__dict__', {})
    inner, several = inside.get('dataset'), inside.get('datasets')
    if several:
        for number, part in enumerate(several):
            yield from leaf_datasets(part, f'{key}.datasets.{number}')
    elif inner is not None:
        yield from leaf_datasets(inner, f'{key}.dataset')
    elif dataset is not None:
        yield key, dataset


def _parts(dataset: Any, key: str) -> List[_Part]:
    return [
        _Part(name, leaf, list(_transforms(getattr(leaf, 'pipeline', None))))
        for name, leaf in leaf_datasets(dataset, key)
        if hasattr(leaf, 'get_data_info')
    ]


def _transforms(pipeline: Any) -> Iterator[Any]:
    """The transforms of a pipeline, also those in branches and in other ones."""
    inner = getattr(pipeline, 'transforms', None)
    branches = getattr(pipeline, 'branch_pipelines', None)
    if isinstance(branches, dict):
        inner = list(branches.values())
    for item in inner if isinstance(inner, (list, tuple)) else ():
        if not hasattr(item, 'transforms') or hasattr(item, 'transform'):
            yield item
        yield from _transforms(item)


def check_data(dataset: Any, key: str, seconds: Optional[float] = None) -> str:
    """Refuse a data set that cannot be what its user means.

    Args:
        dataset: The built data set, with its wrappers.
        key (str): Its key in the config, such as 'train_dataloader.dataset'.
        seconds (float, optional): Stop looking at objects and images after so long;
            the rest is read in training. By default all is looked at.

    Returns:
        str: How many images, classes and objects there are, in one line.

    Raises:
        UserError: The message names the class, the annotation or the image.
    """
    deadline = np.inf if seconds is None else time.monotonic() + seconds
    parts = _parts(dataset, key)
    texts, trained, left = [], False, 0
    for part in parts:
        if part.classes is not None:
            check_class_names(part.classes, part.key)
        dropped = _check_annotation_file(part)
        objects = _look_at_objects(part, deadline)
        if objects is None:
            continue
        texts.append(objects.describe(part.classes or (), dropped))
        left += sum(objects.left.values())
        if part.loads('with_bbox'):
            trained = trained or not part.is_tested
            left += not objects.complete
            _check_objects(part, objects, texts[-1])
    if trained and not left:
        raise UserError(f'{key} has no object to train on: {"; ".join(texts)}')
    for part in parts:
        _look_at_images(part, deadline)
    text = f'{len(dataset)} images' if hasattr(dataset, '__len__') else 'images'
    if parts and parts[0].classes:
        text += f', {len(parts[0].classes)} classes'
    root = getattr(parts[0].dataset, 'data_root', None) if parts else None
    text += f', from {root}' if root else ''
    return text + ': ' * bool(texts) + '; '.join(texts)


def number_of_labels(dataset: Any) -> int:
    """One more than the largest label of a classifier's data set; 0 if it has none."""
    infos = (info for part in _parts(dataset, '') for info in part.infos())
    labels = (info.get('gt_label') for info in infos)
    return 1 + max((i for i in labels if isinstance(i, (int, np.integer))), default=-1)


def check_class_names(classes: Any, key: str) -> None:
    """Refuse what is no sequence of names; of one name the letters would be used.

    Raises:
        UserError: The comma was forgotten, a file of names is missing, or others.
    """
    where = f'{key}.metainfo.classes'
    if isinstance(classes, str):
        if '/' in classes or classes.endswith('.txt'):
            raise UserError(f'{where}: the file of names {classes} does not exist')
        raise UserError(
            f'{where} is the name {classes!r}, not a sequence of names; '
            f'a sequence of one has a comma: classes=({classes!r},)'
        )
    if not isinstance(classes, (list, tuple)) or not all(
        isinstance(name, str) for name in classes
    ):
        raise UserError(f"{where}={classes!r} is no sequence of names ('cat', 'dog')")


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:3]) + ', ...' * (len(names) > 3)


# --- classes ------------------------------------------------------------------


def _check_folders(part: _Part, labels: Set[int]) -> None:
    """Refuse a folder of a class that has no image in it."""
    folders = getattr(part.dataset, 'folder_to_idx', None) or {}
    for name, label in folders.items():
        folder = osp.join(getattr(part.dataset, 'img_prefix', ''), name)
        # A subset may do without images of a class.
        if label not in labels and osp.isdir(folder):
            files = (f for _, _, files in os.walk(folder) for f in files)
            if not any(map(part.dataset.is_valid_file, files)):
                raise UserError(
                    f'{folder} has no image; it is one of {len(folders)} class folders'
                )


def check_same_folders(parts: Sequence[Tuple[str, Any]]) -> None:
    """Refuse data sets whose class folders differ: labels are counted in each.

    Args:
        parts: Keys and built data sets of training and testing.

    Raises:
        UserError: If two data sets of class folders have other names.
    """
    seen: Optional[Tuple[str, Set[str]]] = None
    for key, dataset in parts:
        for part in _parts(dataset, key):
            folders = getattr(part.dataset, 'folder_to_idx', None)
            if not isinstance(folders, dict):
                continue
            here = part.dataset.img_prefix, set(folders)
            seen = seen or here
            if here[1] != seen[1]:
                raise UserError(
                    f'{here[0]} and {seen[0]} do not have the same class folders: only '
                    f'one has {min(here[1] ^ seen[1])!r}; labels would not fit together'
                )


def _check_annotation_file(part: _Part) -> Counter:
    """Refuse a file of COCO's that means something else than the data set.

    Returns:
        Counter: How many of its objects the data set leaves out, by reason.
    """
    dataset = part.dataset
    if not getattr(dataset, 'ANN_ID_UNIQUE', False) or not part.classes:
        return Counter()
    content = coco.read(dataset.ann_file, getattr(dataset, 'backend_args', None))
    if 'videos' in content:
        return Counter()
    coco.check_annotations(content, dataset.ann_file)
    names = {c['id']: c['name'] for c in content['categories']}
    check_categories(names, dataset.cat_ids, part.classes, dataset.ann_file, part.key)
    return coco.drop_counts(content, part.classes)


def check_categories(
    names: Mapping[Any, str],
    ids: Sequence[Any],
    classes: Sequence[str],
    source: str,
    key: str,
) -> None:
    """Refuse categories that become other classes than those of their names.

    Args:
        names: Of a file's categories, by id.
        ids: The categories that labels stand for, as upstream has counted them.
        classes: The names of the labels.
        source (str): The file.
        key (str): The key of the data set that has the classes.

    Raises:
        UserError: No class is there, a class has another's label, or its name is
            that of a category which is not used, but for its spelling.
    """
    repeated = _repeated(classes)
    if repeated:
        raise UserError(
            f'{key}.metainfo.classes has {repeated[0]!r} twice; name each class once'
        )
    found = [names[i] for i in ids if i in names]
    twice = _repeated(found)
    if twice:
        raise UserError(
            f'{source} has the category {twice[0]!r} twice, and classes would get the '
            'labels of others; give its annotations one id'
        )
    known = [name for name in found if name in classes]
    # LVIS counts all categories, whatever their names.
    if known == found or not known:
        _check_found(known, list(names.values()), classes, source, key)
    for label, name in enumerate(found):
        if name in classes and list(classes).index(name) != label:
            at = classes[label] if label < len(classes) else 'nothing'
            raise UserError(
                f'{source}: as its categories are ordered, class {label} is {name!r}, '
                f'but {key}.metainfo.classes has {at!r} there; name the classes in the '
                'order of the file, with a category for each'
            )


def _check_found(
    found: Sequence[str],
    there: Sequence[str],
    classes: Sequence[str],
    source: str,
    key: str,
) -> None:
    """Refuse classes of which none is there, or one is spelt otherwise.

    The rest is a warning: of names that are alike (bus and bush) nobody knows.
    """
    missing = [name for name in classes if name not in found]
    if len(missing) == len(classes):
        raise UserError(
            f'{source} has none of the classes that {key} expects: it has '
            f'{_some(there)}, not {_some(classes)}; name them in {key}.metainfo.classes'
        )
    spare = {_spelt(n): n for n in there if n not in classes}
    for name in missing:
        if _spelt(name) in spare:
            raise UserError(
                f'{source} has no {name!r}, a class of {key}, but '
                f'{spare[_spelt(name)]!r}; spell metainfo.classes as the annotations do'
            )
    if missing:
        near = (difflib.get_close_matches(_spelt(n), spare, n=1) for n in missing)
        alike = [f'{spare[m[0]]!r} for {n!r}' for n, m in zip(missing, near) if m]
        _warn(
            f'{source} has none of {len(missing)} of the {len(classes)} classes of '
            f'{key}: {_some(missing)}'
            + f'; perhaps meant is {_some(alike)}'
            * bool(alike)
        )


def _repeated(names: Sequence[str]) -> List[str]:
    return [name for name, number in Counter(names).items() if number > 1]


def _spelt(name: str) -> str:
    """A name without what is only a matter of spelling: case, spaces, plural."""
    letters = ''.join(c for c in name.casefold() if c.isalnum()) or name
    if letters.endswith('es') and letters[:-2].endswith(('s', 'x', 'ch', 'sh')):
        return letters[:-2]
    return letters[:-1] if letters.endswith('s') and letters[-2:] != 'ss' else letters


def _warn(text: str) -> None:
    print_log(text, 'current', level=30)


def _check_objects(part: _Part, objects: Objects, text: str) -> None:
    """Refuse the annotations of other classes, and tell of what looks wrong."""
    classes = part.classes or ()
    without = objects.complete and len(objects.left) < len(classes)
    if without and hasattr(part.dataset, 'img_subdir'):  # of PASCAL VOC's kind
        there = _xml_names(part)
        found = [name for name in classes if name in there]
        if there:
            _check_found(found, there, classes, part.source, part.key)
    share = objects.beyond / max(1, sum(objects.left.values()))
    if objects.useless or share > _MANY or (without and not part.is_tested):
        _warn(f'{part.key}: {text}')


def _xml_names(part: _Part) -> List[str]:
    """The names of objects in the XML files of PASCAL VOC."""
    names: Set[str] = set()
    args = getattr(part.dataset, 'backend_args', None)
    for info in part.infos():
        text = get_text(info['xml_path'], backend_args=args)
        found = ElementTree.fromstring(text).findall('object/name')  # nosec B314
        names.update(e.text or '' for e in found)
    return sorted(names)


# --- objects ------------------------------------------------------------------


def _look_at_objects(part: _Part, deadline: float) -> Optional[Objects]:
    """Look once at what the data set knows of each image.

    Returns:
        Objects: None if it has none, or of another kind than boxes with a label.
    """
    scales = [
        t.scale
        for t in part.transforms
        if getattr(t, 'keep_ratio', False) and isinstance(getattr(t, 'scale', 0), tuple)
    ]
    # Images without a list are those that were found.
    has_files = bool(getattr(part.dataset, 'ann_file', '')) and part.is_on_disk()
    masks, bitmaps = part.loads('with_mask'), part.loads('with_mask', 'poly2mask')
    objects, known, strange = Objects(), part.loads('with_bbox'), False
    labels: Set[int] = set()
    listed: Dict[str, Set[str]] = {}
    missing: List[str] = []
    for index, info in enumerate(part.infos()):
        if not index % _CHUNK and time.monotonic() > deadline:
            _tell_rest(part, index, 'annotations')
            objects.complete = False
            break
        if has_files:
            folder, name = osp.split(osp.expanduser(info['img_path']))
            if folder not in listed:
                # One listing of a folder is far cheaper than a look at each file.
                names = os.listdir(folder or '.') if osp.isdir(folder or '.') else ()
                listed[folder] = set(names)
            if name not in listed[folder]:
                missing.append(info['img_path'])
        label = info.get('gt_label')
        if isinstance(label, (int, np.integer)):
            labels.add(int(label))
            _check_label(int(label), info, part)
        size = _size(info)
        for scale in scales if size else ():
            _check_shape(info, scale, part.source)
        if 'segments_info' in info:  # panoptic: objects are in pictures
            strange = True
            continue
        for instance in info.get('instances') or ():
            box, label = instance.get('bbox'), instance.get('bbox_label')
            if not isinstance(label, (int, np.integer)) or np.shape(box) != (4,):
                strange = True
                break
            known = True
            _check_label(int(label), info, part)
            if masks:
                _check_mask(instance, info, part, bitmaps)
            objects.add(instance, size or (np.inf, np.inf), masks)
    else:
        _check_folders(part, labels)
    if missing:
        _refuse_missing(part, missing)
    return objects if known and not strange else None


def _check_label(label: int, info: Mapping[str, Any], part: _Part) -> None:
    """Refuse a label that no class has."""
    # -1 stands for none in upstream's data sets (CrowdHuman's masks, no label).
    if part.classes and label >= len(part.classes):
        raise UserError(
            f'{part.source}: {info.get("img_path")} has the label {label}, but '
            f'{part.key} has {len(part.classes)} classes, counted from 0'
        )


def _tell_rest(part: _Part, number: int, what: str) -> None:
    total = len(part.dataset)
    print_log(
        f'{part.key}: looked at {what} of {number} of {total} images in the time that '
        'a training takes for it; tools/misc/check_data.py looks at all',
        'current',
    )


def _refuse_missing(part: _Part, missing: Sequence[str]) -> None:
    folder, number = osp.dirname(missing[0]), len(part.dataset)
    prefixes = getattr(part.dataset, 'data_prefix', {})
    if len(missing) == number and not osp.isdir(folder) and isinstance(prefixes, dict):
        for name, prefix in prefixes.items():
            if osp.normpath(str(prefix)) == osp.normpath(folder):
                raise UserError(
                    f'image folder {folder} does not exist; put the images there or '
                    'name their folder with --cfg-options '
                    f'{part.key}.data_prefix.{name}=FOLDER'
                )
    raise UserError(
        f'image {missing[0]} does not exist; {len(missing)} of {number} images of '
        f'{part.source} are missing'
    )


def _check_mask(
    instance: Mapping[str, Any], info: Mapping[str, Any], part: _Part, bitmaps: bool
) -> None:
    """Refuse what mmdet's LoadAnnotations cannot make a mask of."""
    mask, path = instance.get('mask'), info.get('img_path')
    if mask is None:
        raise UserError(
            f'{part.source}: an object in {path} has no segmentation, and the pipeline '
            'loads masks; add it, or take a detector without masks and with_mask=False'
        )
    width, height = _size(info) or (0, 0)
    is_rle = isinstance(mask, dict) and {'size', 'counts'} <= mask.keys()
    if not (is_rle and bitmaps and width):
        return  # mmdet ignores those that it cannot use
    counts = mask['counts']
    pixels = sum(counts) if isinstance(counts, list) else width * height
    if list(mask['size']) != [height, width] or pixels != width * height:
        raise UserError(
            f'{part.source}: an object in {path} has run lengths of {mask["size"]} '
            f'(height, width) for a mask, the image is {[height, width]}; make them '
            'again for the image as it is'
        )


def _check_shape(info: Mapping[str, Any], scale: Tuple[int, int], source: str) -> None:
    """Refuse an image so long that resizing leaves no pixel of its short side."""
    width, height = info['width'], info['height']
    long, short = max(width, height), min(width, height)
    # As mmcv.imrescale.
    factor = min(max(scale) / long, min(scale) / short)
    if int(short * factor + 0.5) < 1:
        raise UserError(
            f'image {info["img_path"]} is {width}x{height} pixels: resized to scale '
            f'{scale} with keep_ratio nothing is left of its short side; crop it or '
            f'take it out of {source}'
        )


# --- images -------------------------------------------------------------------


def _is_as_told(path: str, size: Optional[Tuple[int, int]]) -> bool:
    """Whether a file on the disk begins and ends as an image of this size.

    Only the ends of a JPEG or PNG are read; False for all that has to be decoded to
    be judged.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(8)
            file.seek(max(os.fstat(file.fileno()).st_size - _TAIL, 0))
            tail = file.read()
        if head.startswith(b'\xff\xd8\xff'):
            whole = b'\xff\xd9' in tail  # nowhere in the image data itself
        else:
            whole = head == b'\x89PNG\r\n\x1a\n' and b'IEND' in tail
        if not whole or size is None:
            return whole
        with Image.open(path) as image:
            turned = image.info.get('exif') and image.getexif().get(_ORIENTATION, 1)
            return image.size == size and (turned or 1) < _TURNED
    except Exception:  # whatever is wrong is said when it is decoded
        return False


def _look_at_images(part: _Part, deadline: float) -> None:
    """Refuse images that cannot be read, and tell of those of another size.

    What does not look whole, or lies behind a file backend, is loaded by the
    pipeline's first transform, as in training.
    """
    load = next(iter(part.transforms), None)
    number = len(part.dataset)
    if not type(load).__name__.startswith('LoadImage') or not number:
        return
    if not isinstance(part.dataset.get_data_info(0).get('img_path'), str):
        return
    is_on_disk = part.is_on_disk()
    indices = np.arange(number)
    if not is_on_disk and deadline < np.inf:
        indices = np.unique(np.linspace(0, number - 1, _SAMPLES).astype(int))
    other: List[str] = []
    progress = Progress(len(indices), f'images of {part.key}')
    # Most of the time is spent waiting for the disk.
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(indices), _CHUNK):
            if time.monotonic() > deadline:
                _tell_rest(part, start, 'files')
                break
            chunk = indices[start : start + _CHUNK]
            infos = [part.dataset.get_data_info(int(i)) for i in chunk]
            sizes = [_size(info) for info in infos]
            good: Iterable[bool] = [False] * len(infos)
            if is_on_disk:
                paths = (info['img_path'] for info in infos)
                good = pool.map(_is_as_told, paths, sizes)
            for is_good, info, size in zip(good, infos, sizes):
                found = size if is_good else _load(load, info, is_on_disk)
                if size and found and found != size:
                    other.append(f'{info["img_path"]} is {_by(found)}, not {_by(size)}')
            progress.update(len(chunk))
    if other:
        _warn(
            f'{part.key}: {len(other)} images do not have the size in {part.source}: '
            f'{other[0]}; boxes may lie beside their objects: annotate the images as '
            "they are loaded, or load them with color_type='color_ignore_orientation' "
            'if EXIF turns them'
        )


def _size(info: Mapping[str, Any]) -> Optional[Tuple[int, int]]:
    width, height = info.get('width'), info.get('height')
    return (int(width), int(height)) if width and height else None


def _by(size: Tuple[int, int]) -> str:
    return f'{size[0]}x{size[1]}'


def _load(load: Any, info: Dict[str, Any], is_on_disk: bool) -> Optional[Tuple]:
    """The width and height of an image as a pipeline loads it."""
    path = info['img_path']
    try:
        if is_on_disk and not osp.getsize(path):
            raise ValueError('it is empty')
        # None with ignore_empty: another takes its place.
        found = load(info)
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, AssertionError):  # mmcv's for what it cannot decode
            reason = 'it is cut off or no image'
        raise UserError(
            f'image {path} cannot be read: {reason}; get it again, or take it out of '
            'the data set'
        ) from error
    return None if found is None else found['img'].shape[1::-1]


def check_pictures(dataset: Any, key: str) -> None:
    """Tell of ground truth that would be drawn in the wrong place.

    Pictures show the image as it was before its transforms, so the boxes must be
    loaded after these, as in mmdet's test pipelines.
    """
    for part in _parts(dataset, key):
        for index in range(min(_SAMPLES, len(part.dataset))):
            info = part.dataset.get_data_info(index)
            boxes = [i['bbox'] for i in info.get('instances') or () if 'bbox' in i]
            if not boxes:
                continue
            sample = part.dataset[index].get('data_samples')
            drawn = getattr(getattr(sample, 'gt_instances', None), 'bboxes', ())
            drawn = np.asarray(getattr(drawn, 'tensor', drawn), float).reshape(-1, 4)
            away = [np.abs(np.asarray(boxes) - box).max(1).min() for box in drawn]
            if max(away, default=0) > _ROUNDING:
                _warn(
                    f'{part.key}.pipeline changes boxes after they are loaded, so the '
                    'pictures show the ground truth in the wrong place; in a test '
                    'pipeline LoadAnnotations belongs after Resize'
                )
                return


# --- metrics ------------------------------------------------------------------


def check_metrics(dataset: Any, evaluator: Any, key: str) -> None:
    """Refuse metrics that compare with other images than the data set's.

    Where a metric's file has more images than the data set, it is told to score
    those of the data set alone.

    Args:
        dataset: The built data set.
        evaluator: The built evaluator, or several metrics.
        key (str): The key of the evaluator, such as 'val_evaluator'.

    Raises:
        UserError: The message names the image, the category or the annotation.
    """
    metrics = list(getattr(evaluator, 'metrics', evaluator))
    datasets = [dataset] * len(metrics)
    if hasattr(evaluator, 'dataset_prefixes'):  # mmdet's MultiDatasetsEvaluator
        datasets = getattr(dataset, 'datasets', [])
    for number, (metric, part) in enumerate(zip(metrics, datasets)):
        api = getattr(metric, '_coco_api', None) or getattr(metric, '_lvis_api', None)
        name = f'{key}.{number}' if len(metrics) > 1 else key
        if api is not None and not getattr(metric, 'format_only', False):
            _check_metric(metric, api, part, name)


def _check_metric(metric: Any, api: Any, dataset: Any, key: str) -> None:
    parts = _parts(dataset, 'its data set')
    if not parts or not hasattr(dataset, 'get_data_info'):
        return
    # Not those of the parts: a wrapper may take some of them only.
    every = (dataset.get_data_info(i) for i in range(len(dataset)))
    infos = {info.get('img_id'): info for info in every}
    if not infos or None in infos:
        return
    source, ours = f'the annotation file of {key}', parts[0].source
    remedy = f'name the file of the data set with --cfg-options {key}.ann_file=FILE'
    strangers = [i for i in infos if i not in api.imgs]
    if strangers:
        raise UserError(
            f'{source} has no image {strangers[0]!r}; {len(strangers)} of {len(infos)} '
            f'images of {ours} are not in it; {remedy}'
        )
    annotated = getattr(api, 'img_ann_map', None) or api.imgToAnns
    verdicts = (_agree(infos[i], annotated.get(i, ())) for i in infos)
    known = [verdict for verdict in verdicts if verdict is not None]
    if known and sum(known) < len(known) / 2:
        raise UserError(
            f'{source} has other objects than {ours} in {len(known) - sum(known)} of '
            f'{len(known)} images of the same id; {remedy}'
        )
    classes = parts[0].classes
    if not hasattr(metric, 'img_ids') or not classes:
        return  # no metric of boxes with classes
    names = {c['id']: c['name'] for c in api.dataset['categories']}
    is_lvis = hasattr(metric, '_lvis_api')
    ids = api.get_cat_ids() if is_lvis else api.get_cat_ids(cat_names=list(classes))
    check_categories(names, ids, classes, source, 'the data set')
    kinds = getattr(metric, 'metrics', ())
    coco.check_scored(api, infos.keys(), 'segm' in kinds, source)
    if len(infos) < len(api.imgs):
        metric.img_ids = list(infos)
        _warn(
            f'{key}: {len(infos)} of the {len(api.imgs)} images of its annotation file '
            'are in the data set; these alone are scored'
        )


def _agree(
    info: Mapping[str, Any], anns: Sequence[Mapping[str, Any]]
) -> Optional[bool]:
    """Whether two descriptions of an image are of the same objects, if they are."""
    from pycocotools import mask  # a metric of its is there

    ours = [i['bbox'] for i in info.get('instances') or () if 'bbox' in i]
    theirs = np.array([a['bbox'] for a in anns if 'bbox' in a], float)
    if not ours or not len(theirs):
        return None
    boxes = np.array(ours, float)
    boxes[:, 2:] -= boxes[:, :2]
    overlap = mask.iou(boxes, theirs, [False] * len(theirs))
    # One of them may be of some classes only.
    best = overlap.max(0 if len(theirs) < len(ours) else 1)
    return bool((best >= 0.5).mean() >= 0.5)
