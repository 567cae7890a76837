# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Released checkpoints, and plain ResNets, as checkpoints of this package."""

import importlib.util
import re
import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.model import initialize
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..version import __version__
from .arch import (
    RESIDUAL,
    VARIANTS,
    ReleasedArch,
    Shape,
    UnknownArchError,
    parse_name,
)
from .detectors import BASES, head_shapes, is_part, recognise_detector
from .files import CheckpointError, PathLike, load_file, sha256_of
from .names import mmrla_names, recognise_weights, to_mmrla
from .published import Published, find_published

TASKS = ('auto', 'cls', 'det')

#: Entries of a checkpoint that hold its weights, in the order they are looked for.
_WEIGHTS = ('state_dict', 'model')


@dataclass(frozen=True)
class Source:
    """A foreign checkpoint, taken apart.

    Attributes:
        weights: The weights by the names in the file.
        stems: The same names without the prefixes ``module.`` and ``backbone.``.
        parts: Those of ``weights`` that are a detector's neck and heads, by their
            names without ``module.``.
        container: The file's entries, in order, without the optimizer's; None for
            the weights. Empty if the file has nothing but weights.
        entry: Which entry has the weights.
        arch: The name that the file gives its network, if any.
        classes: The names of the classes that the file gives, if any.
    """

    weights: Dict[str, Tensor]
    stems: Dict[str, str]
    parts: Dict[str, str]
    container: Dict[str, Any]
    entry: Optional[str]
    arch: Optional[str]
    classes: Optional[Tuple[str, ...]]

    @property
    def network(self) -> Dict[str, Tensor]:
        """The backbone's (or classifier's) weights, by name without prefixes."""
        return {stem: self.weights[name] for name, stem in self.stems.items()}


@dataclass(frozen=True)
class Converted:
    """What a conversion gives.

    Attributes:
        checkpoint: What is to be saved: ``state_dict`` and ``meta``.
        arch: The network.
        detector: The detector, None for a classifier.
        arch_from: Where the network's name is from.
        config: The matching config below ``configs/``, None if there is none.
        published: The published file of this network, if there is one.
        notes: What the user should know, a line each.
    """

    checkpoint: Dict[str, Any]
    arch: ReleasedArch
    detector: Optional[str]
    arch_from: str
    config: Optional[str]
    published: Optional[Published]
    notes: Tuple[str, ...]


def read_source(path: PathLike) -> Source:
    """Read a checkpoint of the released code, torchvision, mmpretrain or mmdet.

    Args:
        path: The file.

    Raises:
        CheckpointError: If the file is not safe to load, broken, or holds no
            weights.
    """
    obj = load_file(path)
    entry = None
    if isinstance(obj, Mapping):
        entry = next((k for k in _WEIGHTS if isinstance(obj.get(k), Mapping)), None)
    weights = obj if entry is None else obj[entry]
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(name, str) for name in weights)
        or not all(isinstance(value, Tensor) for value in weights.values())
    ):
        raise CheckpointError(
            f"{path}: holds no weights: neither a 'state_dict' nor tensors by name"
        )
    container: Dict[str, Any] = {}
    if entry is not None:
        # The optimizer's state is of no use to another framework's optimizer.
        container = {
            k: None if k == entry else v for k, v in obj.items() if k != 'optimizer'
        }
    wrapped = all(name.startswith('module.') for name in weights)
    stems, parts = {}, {}
    for name in weights:
        stem = name[len('module.') :] if wrapped else name
        if is_part(stem):
            parts[name] = stem
        else:
            stems[name] = re.sub(r'^backbone\.', '', stem)
    if len(set(stems.values())) < len(stems):
        raise CheckpointError(f'{path}: has weights with and without "backbone."')
    if any('.rla.' in stem for stem in stems.values()):
        raise CheckpointError(
            f'{path}: has the names of mmrla already; mmrla_to_rlanet.py goes the '
            'other way'
        )
    meta = container.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    arch = container.get('arch')
    classes = meta.get('CLASSES') or dict(meta.get('dataset_meta') or {}).get('classes')
    return Source(
        weights=dict(weights),
        stems=stems,
        parts=parts,
        container=container,
        entry=entry,
        arch=arch if isinstance(arch, str) else None,
        classes=tuple(classes) if classes else None,
    )


def convert(
    path: PathLike,
    arch: Optional[str] = None,
    task: str = 'auto',
    from_resnet: bool = False,
) -> Converted:
    """Convert a checkpoint.

    Args:
        path: A checkpoint of the released code or, with ``from_resnet``, of a
            plain ResNet or ResNeXt.
        arch: The released code's name of the network, with ``@residual`` for the
            true residual. By default what the file says, else what its names and
            shapes are. With ``from_resnet`` the network to make: the paper's
            RLA-ResNet of the same depth by default.
        task: 'cls', 'det' or 'auto', which goes by the names.
        from_resnet: Whether the file has a plain ResNet.

    Raises:
        CheckpointError: If the file cannot be read or is not of that network.
    """
    source = read_source(path)
    try:
        return _convert(source, path, arch, task, from_resnet)
    except CheckpointError as error:
        raise type(error)(f'{path}: {error}') from error


def _convert(
    source: Source,
    path: PathLike,
    name: Optional[str],
    task: str,
    from_resnet: bool,
) -> Converted:
    network = source.network
    notes: List[str] = []
    if from_resnet:
        plain = recognise_weights(network)
        arch = rla_arch_for(plain, name)
        arch_from = 'by --arch' if name else 'by default'
    else:
        arch, arch_from = _recognise(source, name, notes)
    task = _find_task(source, arch, task)

    detector, num_classes = None, arch.num_classes
    if task == 'det':
        shapes = {s: tuple(source.weights[n].shape) for n, s in source.parts.items()}
        detector, num_classes = recognise_detector(shapes)
    model = _build(arch, task)
    expected = _expected(model, arch, detector, num_classes)

    if from_resnet:
        weights = expand_resnet(to_mmrla(network, plain), arch, model)
    else:
        weights = to_mmrla(network, arch)
    weights.update({part: source.weights[own] for own, part in source.parts.items()})
    wiring = {k: v for k, v in model.state_dict().items() if k.endswith('.wiring')}
    weights.update(wiring)

    # A detector's backbone is without the classifier and the last update.
    for key in weights:
        if key not in expected and (task == 'cls' or key in source.parts.values()):
            raise CheckpointError(f'{key} is no weight of {detector or arch.name}')
    weights = _in_order(weights, expected, arch.name)

    published = None if from_resnet else _published(arch, detector, num_classes)
    classes = _class_names(task, num_classes, source.classes)
    meta: Dict[str, Any] = dict(
        mmrla_version=__version__,
        source=dict(name=Path(path).name, sha256=sha256_of(path)),
        arch=arch.name,
        wiring=arch.wiring,
        cfg=config_text(arch, detector, num_classes),
    )
    if classes:
        meta['dataset_meta'] = dict(classes=classes)
    if published:
        meta['published'] = dict(file=published.name, **dict(published.scores))
    if from_resnet:
        meta['from_resnet'] = True
    else:
        meta['released'] = _way_back(source, mmrla_names(network, arch), weights)
    return Converted(
        checkpoint=dict(meta=meta, state_dict=weights),
        arch=arch,
        detector=detector,
        arch_from=arch_from,
        config=matching_config(arch, detector),
        published=published,
        notes=tuple(notes),
    )


def _way_back(
    source: Source, ours: Mapping[str, Optional[str]], weights: Mapping[str, Tensor]
) -> Dict[str, Any]:
    """What :func:`mmrla.checkpoints.export.export` needs to restore the file.

    Args:
        source: The file.
        ours: Our names of its network's weights.
        weights: The converted weights.
    """
    names = {
        own: source.parts[own] if own in source.parts else ours[source.stems[own]]
        for own in source.weights
    }
    return dict(
        names=names,
        unused={n: source.weights[n] for n, our in names.items() if our not in weights},
        container=source.container,
        entry=source.entry,
    )


def _recognise(
    source: Source, name: Optional[str], notes: List[str]
) -> Tuple[ReleasedArch, str]:
    """The network, and where its name is from."""
    network = source.network
    if name is not None:
        return recognise_weights(network, name), 'by --arch'
    if source.arch is not None:
        try:
            return recognise_weights(network, source.arch), "by the file's arch"
        except UnknownArchError:
            notes.append(
                f'the arch {source.arch!r} that the file names is not known; '
                '--arch NAME says which network it is'
            )
    arch = recognise_weights(network)
    return arch, 'by names and shapes, in the released wiring'


def _find_task(source: Source, arch: ReleasedArch, task: str) -> str:
    """'cls' or 'det', by what the file has."""
    found = 'det' if source.parts else 'cls'
    if found == 'cls' and arch.num_classes is None:
        raise CheckpointError(
            'has a backbone alone: neither a classifier (fc, classifier.1) nor a '
            "detector's heads"
        )
    if task not in ('auto', found):
        kind = 'a detector' if found == 'det' else 'a classifier'
        raise CheckpointError(
            f'--task {task}, but the file has the weights of {kind} ({found})'
        )
    return found


def _build(arch: ReleasedArch, task: str) -> nn.ModuleDict:
    """Our part of the network: backbone and, for a classifier, neck."""
    try:
        modules = nn.ModuleDict(dict(backbone=MODELS.build(arch.backbone_cfg(task))))
    except ValueError as error:
        raise CheckpointError(f'no network of mmrla is like this: {error}') from error
    neck = arch.neck_cfg()
    if task == 'cls' and neck['type'] == 'RLANeck':
        modules['neck'] = MODELS.build(neck)
    return modules


def _expected(
    model: nn.Module,
    arch: ReleasedArch,
    detector: Optional[str],
    num_classes: Optional[int],
) -> Dict[str, Shape]:
    """Names and shapes of all the weights of the network."""
    shapes: Dict[str, Shape] = {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }
    if detector is not None:
        assert num_classes is not None  # recognise_detector reads it
        shapes.update(head_shapes(detector, num_classes, arch.channels[-4:]))
    elif num_classes is not None:
        inputs = arch.last_conv or arch.channels[-1] + arch.rla_channels
        shapes['head.fc.weight'] = (num_classes, inputs)
        shapes['head.fc.bias'] = (num_classes,)
    return shapes


def _in_order(
    weights: Mapping[str, Tensor], expected: Mapping[str, Shape], name: str
) -> Dict[str, Tensor]:
    """The expected ones of the weights, in the network's order."""
    ordered: Dict[str, Tensor] = {}
    missing, wrong = [], []
    for key, shape in expected.items():
        if key not in weights:
            # Files from before PyTorch 0.4.1 have no batch counters.
            if key.endswith('num_batches_tracked'):
                ordered[key] = torch.tensor(0)
            else:
                missing.append(key)
        elif tuple(weights[key].shape) != shape:
            wrong.append(f'{key} is {tuple(weights[key].shape)} instead of {shape}')
        else:
            ordered[key] = weights[key]
    for what, found in (('weights are missing', missing), ('shapes differ', wrong)):
        if found:
            raise CheckpointError(
                f'not the weights of {name}: {len(found)} {what}, the first: {found[0]}'
            )
    return ordered


def rla_arch_for(plain: ReleasedArch, name: Optional[str] = None) -> ReleasedArch:
    """The RLA network that a plain ResNet can start.

    Args:
        plain: The ResNet.
        name: The released code's name of the network to make; by default the
            paper's RLA-ResNet of the same depth.

    Raises:
        CheckpointError: If it is no plain ResNet, or of another kind than ``name``.
    """
    if plain.family != 'resnet' or plain.rla_channels or plain.attention:
        raise CheckpointError(
            f'--from-resnet needs a plain ResNet or ResNeXt, the file has {plain.name}'
        )
    depth, groups = plain.args['depth'], plain.args.get('groups', 1)
    net = f'resnext{depth}_32x4d' if groups > 1 else f'resnet{depth}'
    named = parse_name(name or f'rla_{net}{RESIDUAL}')
    if named.variant is None or named.attention or named.family != 'resnet':
        raise CheckpointError(
            f'--arch {named.text}: --from-resnet makes an RLA-ResNet without '
            'attention modules, which would change what the ResNet computes'
        )
    if (named.depth, named.groups) != (depth, groups):
        raise CheckpointError(
            f'--arch {named.text}: the file has a ResNet of depth {depth} and '
            f'{groups} groups'
        )
    return replace(
        plain,
        name=named.text,
        rla_channels=named.rla_channels or 32,
        variant=VARIANTS[named.variant],
    )


def expand_resnet(
    weights: Mapping[str, Tensor], arch: ReleasedArch, model: nn.ModuleDict
) -> Dict[str, Tensor]:
    """Weights of an RLA network that computes what a plain ResNet computes.

    The shared part is copied. Whatever reads the hidden state (the first conv of
    each block, the classifier) gets zeros for it, so the outputs are the ResNet's,
    to the bit up to the order of a sum. C1, C3 and BN_t are freshly drawn, as for
    training from scratch: with zeros there too no gradient would ever reach them.

    Args:
        weights: The ResNet's weights under our names.
        arch: The RLA network.
        model: It, built: backbone and neck. Its RLA units are drawn anew.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a file gives the same weights each time
        backbone = model['backbone']
        for stage in backbone.stages:
            if stage.rla is not None:
                initialize(stage.rla, backbone.init_cfg)
    start = model.state_dict()
    expanded = dict(weights)
    for name, fresh in start.items():
        if name not in weights:
            expanded[name] = fresh
        elif fresh.shape != weights[name].shape:
            expanded[name] = _with_zeros(weights[name], fresh.shape[1])
    if 'head.fc.weight' in weights:
        expanded['head.fc.weight'] = _with_zeros(
            weights['head.fc.weight'], arch.channels[-1] + arch.rla_channels
        )
    return expanded


def _with_zeros(weight: Tensor, inputs: int) -> Tensor:
    """A weight (out, in, ...) with zeros for further inputs."""
    rest = weight.new_zeros(
        weight.shape[0], inputs - weight.shape[1], *weight.shape[2:]
    )
    return torch.cat((weight, rest), dim=1)


def _published(
    arch: ReleasedArch, detector: Optional[str], num_classes: Optional[int]
) -> Optional[Published]:
    """The published file of a network; its data set's classes must be as many."""
    if num_classes != (80 if detector else 1000) or not arch.is_usual:
        return None
    return find_published(arch.name, detector)


#: Package and file of it that has the names of a data set's classes, and which
#: constant or function there.
_CLASSES = {
    ('cls', 1000): ('mmpretrain', 'datasets/categories.py', 'IMAGENET_CATEGORIES'),
    ('det', 80): ('mmdet', 'evaluation/functional/class_names.py', 'coco_classes'),
}


def _class_names(
    task: str, num_classes: Optional[int], given: Optional[Tuple[str, ...]]
) -> Optional[Tuple[str, ...]]:
    """The names of the classes: the file's, else those of ImageNet and COCO."""
    if given and len(given) == num_classes:
        return given
    if (task, num_classes) not in _CLASSES:
        return None
    package, path, name = _CLASSES[task, num_classes]  # type: ignore[index]
    # The file alone: the package is slow to import and takes much memory.
    names = runpy.run_path(str(_package_folder(package) / path))[name]
    return tuple(names() if callable(names) else names)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise CheckpointError(
            f'the config and the classes are those of {package}, which is not '
            f'installed: pip install {package}'
        )
    return Path(spec.origin).parent


def configs_folder() -> Path:
    """The folder ``configs/`` of the installed package or of the clone."""
    package = Path(__file__).resolve().parents[1]
    carried = package / '.mim' / 'configs'
    return carried if carried.is_dir() else package.parent / 'configs'


def matching_config(arch: ReleasedArch, detector: Optional[str]) -> Optional[str]:
    """The config of a network below ``configs/``, None if there is none.

    Args:
        arch: The network.
        detector: The detector, None for a classifier.
    """
    if not arch.is_usual:
        return None
    stem = arch.name.replace(RESIDUAL, '')
    published = find_published(stem, detector)
    released = arch.integration == 'v3' or arch.family == 'mobilenet_v2'
    if published is not None:
        config = published.config
        if not released:
            config = config.replace('-released', '')
    elif detector is None and arch.family == 'resnet':
        config = _resnet_config(arch)
    else:
        return None
    return config if (configs_folder() / config).is_file() else None


def _resnet_config(arch: ReleasedArch) -> str:
    """What the config of a classifier would be called."""
    variant, integration = arch.variant, arch.integration
    net = {'eca': 'ecanet', 'se': 'senet', None: 'resnet'}[arch.attention]
    net = f'rla-{net}{arch.args["depth"]}'
    if 'groups' in arch.args:
        net = net.replace('resnet', 'resnext') + '-32x4d'
    parts = []
    if variant.cell != 'conv':
        parts.append(variant.cell)
    if not variant.shared:
        parts.append('unshared')
    if not variant.exchange:
        parts.append('no-exchange')
    if variant.cell == 'conv' and variant.act != 'ReLU':
        parts.append('tanh')
    if integration == 'v3':
        parts.append('released')
    elif integration != 'v1':
        parts.append(integration)
    folder = 'ablations' if set(parts) - {'released'} else 'rla_resnet'
    return f'{folder}/{"-".join([net, *parts])}_4xb64_in1k.py'


def config_text(
    arch: ReleasedArch, detector: Optional[str], num_classes: Optional[int]
) -> str:
    """The text of a config that builds and tests the network.

    Args:
        arch: The network.
        detector: The detector, None for a classifier.
        num_classes: Number of classes.

    Raises:
        CheckpointError: If mmdet or mmpretrain, whose base configs it has, is not
            installed.
    """
    if detector is None:
        package = 'mmpretrain'
        bases = ['datasets/imagenet_bs64_pil_resize.py']
    else:
        package = 'mmdet'
        model, dataset = BASES[detector]
        bases = [f'models/{model}.py', f'datasets/{dataset}.py']
    # By path: for 'mmdet::...' MMEngine would read all of mmdet's metafiles first.
    folder = _package_folder(package) / '.mim' / 'configs' / '_base_'
    paths = [str(folder / base) for base in [*bases, 'default_runtime.py']]
    base = Config.fromstring(f'_base_ = {paths!r}\n', '.py').to_dict()
    # What is needed to build and to test; how it was trained is another matter.
    cfg = Config(
        {k: v for k, v in base.items() if not k.startswith(('train_', 'val_'))}
    )
    cfg.custom_imports = dict(imports=['mmrla'], allow_failed_imports=False)
    if detector is None:
        cfg.model = arch.classifier_cfg()
        cfg.data_preprocessor.num_classes = num_classes
        cfg.test_cfg = dict()
        return cfg.pretty_text
    cfg.model.backbone = arch.backbone_cfg('det')
    cfg.model.neck.in_channels = list(arch.channels[-4:])
    heads = cfg.model if detector == 'retinanet' else cfg.model.roi_head
    for name in ('bbox_head', 'mask_head'):
        if name in heads:
            heads[name].num_classes = num_classes
    cfg.test_cfg = dict(type='TestLoop')
    return cfg.pretty_text
