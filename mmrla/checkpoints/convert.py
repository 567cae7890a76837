# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Convert checkpoints of the released RLANet code to mmrla, and back."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from .. import zoo
from ..engine.checkpoint_io import (
    CheckpointError,
    PathLike,
    load_foreign,
    save_file,
    sha256_of,
    weights_of,
)
from ..errors import UserError
from ..models.wiring import decode
from ..registry import default_scope
from ..version import __version__
from .names import to_ours, to_released
from .released import (
    NETWORKS,
    PUBLISHED,
    RESIDUAL,
    Network,
    Published,
    UnknownArchError,
    find_network,
    find_published,
)

TASKS = ('auto', 'cls', 'det')

#: Entries that may hold a checkpoint's weights, in search order.
_WEIGHTS = ('state_dict', 'model')
#: First parts of the names in a detector's neck and heads.
_PARTS = ('neck.', 'rpn_head.', 'roi_head.', 'bbox_head.', 'mask_head.')
#: Names that identify a detector's heads, and the number of classes they imply.
_DETECTORS = {
    'roi_head.mask_head.conv_logits.weight': ('mask_rcnn', lambda n: n),
    'roi_head.bbox_head.fc_cls.weight': ('faster_rcnn', lambda n: n - 1),
    'bbox_head.retina_cls.weight': ('retinanet', lambda n: n // 9),
}
#: The released code's names for modules of the hidden state.
_RELEASED = re.compile(r'(^|\.)(stage_bns|conv_outs|recurrent_(ds)?convs?|bn_rla)\.')
#: Weights that the released code does not use: the last update of a detector, the
#: norm of a last state that is read without it.
_DROPPED = re.compile(r'(bn2|stage_bns\.3\.\d+|stages\.3\.\d+\.\w*rla)\.')


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint and its parts.

    Attributes:
        weights: The weights by the names in the file.
        stems: The same names without the prefixes ``module.`` and ``backbone.``.
        container: The file's entries in order, without the optimizer's, with None in
            place of the weights. Empty if the file is a state dict.
        entry: The entry with the weights.
        arch: The network's name in the file, if any.
        classes: The class names in the file, if any.
    """

    weights: Dict[str, Tensor]
    stems: Dict[str, str]
    container: Dict[str, Any]
    entry: Optional[str]
    arch: Optional[str]
    classes: Optional[Tuple[str, ...]]

    @property
    def network(self) -> Dict[str, Tensor]:
        """The weights, by name without prefixes."""
        return {stem: self.weights[name] for name, stem in self.stems.items()}

    @property
    def detector(self) -> Optional[str]:
        """The detector, told by its heads; None for a classifier."""
        stems = set(self.stems.values())
        return next((d for name, (d, _) in _DETECTORS.items() if name in stems), None)

    @property
    def num_classes(self) -> int:
        """Number of classes.

        Raises:
            CheckpointError: If there is neither a classifier nor a known head.
        """
        network = self.network
        for name, (_, classes) in _DETECTORS.items():
            if name in network:
                return classes(network[name].shape[0])
        for name in ('fc.weight', 'classifier.1.weight'):
            if name in network:
                return network[name].shape[0]
        raise CheckpointError(
            'neither a classifier (fc, classifier.1) nor the heads of Faster R-CNN, '
            'Mask R-CNN or RetinaNet are in it'
        )


@dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
        checkpoint: The checkpoint to save: ``state_dict`` and ``meta``.
        network: The network.
        detector: The detector, None for a classifier.
        arch_from: Where the network's name came from.
        config: The config, below ``configs/``.
        published: The published file of this network, if there is one.
        notes: What the user should know, a line each.
    """

    checkpoint: Dict[str, Any]
    network: Network
    detector: Optional[str]
    arch_from: str
    config: str
    published: Optional[Published]
    notes: Tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        checkpoint: The checkpoint to save.
        arch: The released code's name for the network.
        notes: What the user should know, a line each.
    """

    checkpoint: Any
    arch: str
    notes: Tuple[str, ...] = ()


def read_source(path: PathLike) -> Source:
    """Read a checkpoint of the released code.

    Args:
        path: The file.

    Raises:
        CheckpointError: If the file is not safe to load, broken, or holds no
            weights.
    """
    obj = load_foreign(path, strict=True)
    entry, weights = weights_of(obj, path, _WEIGHTS)
    container: Dict[str, Any] = {}
    if entry is not None:
        # The optimizer's state is useless to another framework.
        container = {
            k: None if k == entry else v for k, v in obj.items() if k != 'optimizer'
        }
    wrapped = all(name.startswith('module.') for name in weights)
    stems = {}
    for name in weights:
        stem = name[len('module.') :] if wrapped else name
        stems[name] = stem if stem.startswith(_PARTS) else stem.replace('backbone.', '')
    if len(set(stems.values())) < len(stems):
        raise CheckpointError(f'{path}: has weights with and without "backbone."')
    if any(stem.startswith('rla.') for stem in stems.values()):
        raise CheckpointError(
            f'{path}: has the names of mmrla already; mmrla_to_rlanet.py goes the '
            'other way'
        )
    if not any(re.match(r'stages\.\d+\.\d+\.', stem) for stem in stems.values()):
        raise CheckpointError(f'{path}: {_no_released(stems.values())}')
    meta = container.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    arch = container.get('arch')
    classes = meta.get('CLASSES') or dict(meta.get('dataset_meta') or {}).get('classes')
    return Source(
        weights=weights,
        stems=stems,
        container=container,
        entry=entry,
        arch=arch if isinstance(arch, str) else None,
        classes=tuple(classes) if classes else None,
    )


def _no_released(names: Iterable[str]) -> str:
    """Say what a file holds if not the weights of a released network."""
    names = list(names)
    if any(re.match(r'features\.1\.conv\.0\.', name) for name in names):
        return (
            "a plain MobileNetV2 in torchvision's names, without RLA to convert: "
            "mmpretrain's tools/model_converters/mobilenetv2_to_mmpretrain.py SRC DST "
            "renames it; then start from it with init_cfg=dict(type='Pretrained', "
            "checkpoint=DST, prefix='backbone.')"
        )
    if any(re.match(r'layer1\.0\.', name) for name in names):
        return (
            'a plain network, which needs no conversion: name it as it is, '
            "init_cfg=dict(type='Pretrained', checkpoint=...) or load_from"
        )
    return 'no weights of a released network (stages.0.0.conv1.weight is not in it)'


def network_config(network: Network, detector: Optional[str] = None) -> Config:
    """The config of a released network, or of a detector with it.

    Args:
        network: The network.
        detector: The detector, None for a classifier.

    Raises:
        CheckpointError: If there is no config of the detector with this backbone.
    """
    name = config_name(network, detector)
    cfg = Config.fromfile(zoo.root() / 'configs' / name)
    options = dict(network.options)
    if detector is not None:
        options = {k: v for k, v in options.items() if k.endswith('.integration')}
    cfg.merge_from_dict(options)
    return cfg


def config_name(network: Network, detector: Optional[str] = None) -> str:
    """The config of a network below ``configs/``, see :func:`network_config`."""
    if detector is None:
        return network.config
    published = find_published(network.arch.replace(RESIDUAL, ''), detector)
    if published is None:
        raise CheckpointError(
            f'there is no {detector} with the backbone {network.arch}; convert the '
            'backbone from its classification file'
        )
    return published.config


def build_model(cfg: Config) -> nn.Module:
    """The network of a config, without its pretrained weights."""
    with default_scope(cfg):
        return MODELS.build(cfg.model)


def _set_num_classes(cfg: Config, num_classes: int) -> None:
    """Set the file's number of classes in the heads and the preprocessor."""
    model = cfg.model
    for part in (model, model.get('roi_head') or {}):
        for name in ('head', 'bbox_head', 'mask_head'):
            if name in part:
                part[name].num_classes = num_classes
    if 'head' in model and 'data_preprocessor' in cfg:
        cfg.data_preprocessor.num_classes = num_classes


def convert(
    path: PathLike, arch: Optional[str] = None, task: str = 'auto'
) -> Converted:
    """Convert a checkpoint of the released code.

    Args:
        path: The file.
        arch: The released code's name for the network, with ``@residual`` for the
            true residual. Defaults to the name in the file, else to the file's
            name, else the network is found by names and shapes.
        task: 'cls', 'det' or 'auto' (by the names of the weights).

    Raises:
        CheckpointError: If the file cannot be read or is not of that network.
    """
    source = read_source(path)
    try:
        return _convert(source, Path(path), arch, task)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error


def convert_once(path: PathLike) -> Path:
    """Path of a checkpoint that mmrla can load; released files are converted first.

    ``NAME.pth.tar`` or ``NAME.pth`` is converted to ``NAME.mmrla.pth`` beside it. The
    conversion is reused if it was made from this file by this version of mmrla.

    Args:
        path: A checkpoint. A file that is not from the released RLANet code is
            returned unchanged.

    Returns:
        The checkpoint to load.

    Raises:
        UserError: If the file cannot be read, is of no known network, or the
            result cannot be written.
    """
    path = Path(path).expanduser()
    if not _is_released(load_foreign(str(path))):
        return path
    stem = re.sub(r'(\.pth)?(\.tar)?$', '', path.name)
    result = path.with_name(f'{stem}.mmrla.pth')
    if _is_conversion(result, path):
        return result
    checkpoint = convert(path).checkpoint
    try:
        save_file(checkpoint, result)
    except CheckpointError as error:
        raise CheckpointError(
            f'{error}; convert {path} with tools/model_converters/rlanet_to_mmrla.py, '
            'which takes the name of the file to write'
        ) from error
    return result


def _is_released(checkpoint: Any) -> bool:
    """Whether the weights have the released code's names for the hidden state."""
    entries = checkpoint if isinstance(checkpoint, Mapping) else {}
    entry = next((entries[k] for k in _WEIGHTS if k in entries), entries)
    names = entry if isinstance(entry, Mapping) else ()
    return any(isinstance(name, str) and _RELEASED.search(name) for name in names)


def _is_conversion(result: Path, path: Path) -> bool:
    """Whether a file exists and is this version's conversion of another one."""
    try:
        meta = load_foreign(str(result))['meta']
        found = meta['source']['sha256'], meta['mmrla_version']
    except (UserError, KeyError, TypeError, IndexError):
        return False
    return found == (sha256_of(path), __version__)


def _convert(source: Source, path: Path, arch: Optional[str], task: str) -> Converted:
    detector, num_classes = source.detector, source.num_classes
    found = 'det' if detector else 'cls'
    if task not in ('auto', found):
        kind = 'a detector' if detector else 'a classifier'
        raise CheckpointError(
            f'--task {task}, but the file has the weights of {kind} ({found})'
        )
    notes: List[str] = []
    network, arch_from = _recognise(source, path, arch, notes)
    cfg = network_config(network, detector)
    _set_num_classes(cfg, num_classes)
    model = build_model(cfg)
    weights, problems, rest = _fit(source, model)
    if problems:
        raise CheckpointError(
            f'not the weights of {network.arch}: {len(problems)} do not fit, the '
            f'first: {problems[0]}; --arch says which network it is'
        )
    model.load_state_dict(weights, strict=True)

    published = None
    if num_classes == (80 if detector else 1000):
        published = find_published(network.arch, detector)
    classes = source.classes if len(source.classes or ()) == num_classes else None
    meta: Dict[str, Any] = dict(
        mmrla_version=__version__,
        source=dict(name=path.name, sha256=sha256_of(path)),
        arch=network.arch,
        cfg=cfg.pretty_text,
    )
    classes = classes or _class_names(found, num_classes)
    if classes:
        meta['dataset_meta'] = dict(classes=classes)
    if published:
        meta['published'] = dict(file=published.name, **dict(published.scores))
    meta['released'] = dict(
        names=list(source.weights),
        stems=list(source.stems.values()),
        dropped={name: source.network[name] for name in rest},
        container=source.container,
        entry=source.entry,
    )
    return Converted(
        checkpoint=dict(meta=meta, state_dict=weights),
        network=network,
        detector=detector,
        arch_from=arch_from,
        config=config_name(network, detector),
        published=published,
        notes=tuple(notes),
    )


def _fit(
    source: Source, model: nn.Module
) -> Tuple[Dict[str, Tensor], List[str], List[str]]:
    """Weights under our names, misfits, and dropped weights."""
    weights, problems, rest = to_ours(source.network, model.state_dict())
    strange = [name for name in rest if not _DROPPED.match(name)]
    return weights, problems + [f'{name} has no place' for name in strange], rest


def _recognise(
    source: Source, path: Path, name: Optional[str], notes: List[str]
) -> Tuple[Network, str]:
    """The network, and where its name came from."""
    if name is not None:
        return find_network(name), 'by --arch'
    if source.arch is not None:
        try:
            return find_network(source.arch), "by the file's arch"
        except UnknownArchError:
            notes.append(
                f'the arch {source.arch!r} that the file names is not known; '
                '--arch NAME says which network it is'
            )
    stem = path.name.split('.')[0]
    for entry in PUBLISHED:
        if stem.startswith(entry.name) and entry.detector == source.detector:
            return find_network(entry.arch), 'by the name of the file'
    # Published networks come first: they win among equal names and shapes.
    names = [entry.arch for entry in PUBLISHED if entry.detector == source.detector]
    if source.detector is None:
        names += [n for n in NETWORKS if n not in names and not n.endswith(RESIDUAL)]
    for candidate in names:
        network = find_network(candidate)
        cfg = network_config(network, source.detector)
        _set_num_classes(cfg, source.num_classes)
        if not _fit(source, build_model(cfg))[1]:
            return network, 'by names and shapes, in the released wiring'
    raise CheckpointError(
        'its names and shapes are those of no released network; --arch NAME says '
        'which one it is'
    )


def _class_names(task: str, num_classes: int) -> Optional[Tuple[str, ...]]:
    """The names of ImageNet's and COCO's classes."""
    if (task, num_classes) == ('cls', 1000):
        from mmpretrain.datasets.categories import IMAGENET_CATEGORIES

        return tuple(IMAGENET_CATEGORIES)
    if (task, num_classes) == ('det', 80):
        from mmdet.evaluation import get_classes

        return tuple(get_classes('coco'))
    return None


def export(checkpoint: Mapping[str, Any]) -> Exported:
    """Convert a checkpoint to the released names.

    A checkpoint made by :func:`convert` gets back its file's names, their order and
    the other entries (without the optimizer's state). Any other checkpoint is written
    like the published files: ``module.`` before a classifier's names, ``backbone.``
    before those of a detector's backbone.

    Args:
        checkpoint: The object in a checkpoint of this package.

    Raises:
        CheckpointError: If it has no weights of an RLA network.
    """
    weights = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    if not isinstance(weights, Mapping):
        raise CheckpointError('no checkpoint of mmrla: it has no state_dict')
    if 'backbone.rla.0.wiring' not in weights:
        raise CheckpointError(
            'no checkpoint of an RLA network of mmrla: backbone.rla.0.wiring is not in '
            'it'
        )
    if 'backbone.layer1.0.conv1.weight' not in weights and (
        'backbone.layer1.0.conv.0.conv.weight' not in weights
    ):
        raise CheckpointError(
            'the released code has no such network: neither a ResNet nor MobileNetV2'
        )
    released = to_released(weights)
    meta = checkpoint.get('meta') or {}
    if 'released' in meta:
        record = meta['released']
        released.update(record['dropped'])
        named = {n: released[s] for n, s in zip(record['names'], record['stems'])}
        if record['entry'] is None:
            return Exported(named, meta['arch'])
        container = dict(record['container'])
        container[record['entry']] = named
        return Exported(container, meta['arch'])
    wiring = decode(weights['backbone.rla.0.wiring'])
    notes = []
    if "integration='v3'" not in wiring and 'backbone.conv2.conv.weight' not in weights:
        notes.append(
            f'trained with {wiring}, which the released code may not compute: it gives '
            'other outputs with these weights'
        )
    if 'head.fc.weight' in weights:
        named = {f'module.{n}': v for n, v in released.items()}
        return Exported(dict(arch=wiring, state_dict=named), wiring, tuple(notes))
    classes = dict(meta.get('dataset_meta') or {}).get('classes')
    named = {
        n if n.startswith(_PARTS) else f'backbone.{n}': v for n, v in released.items()
    }
    container = dict(meta=dict(CLASSES=classes), state_dict=named)
    return Exported(container, wiring, tuple(notes))
