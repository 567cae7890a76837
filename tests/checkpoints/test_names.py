# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""The released networks: which they are, and their weights' names both ways.

Layouts that are not at hand are derived from those that are, by what is known of the
networks; their tensors have no data, so only names and shapes are looked at here.
"""

import re

import pytest
import torch
from mmengine.registry import MODELS

from mmrla.checkpoints.arch import NAMES, UnknownArchError, parse_name, recognise
from mmrla.checkpoints.files import CheckpointError
from mmrla.checkpoints.names import (
    canonical_names,
    recognise_weights,
    to_mmrla,
    to_released,
)

LAYOUTS = (
    'rla_resnet50',
    'rla_resnet50_eca',
    'dsrla_mobilenetv2_k32',
    'rla_resnext50_32x4d_se',
    'rlaus_resnet50',
    'rlav2_resnet50',
    'rlav5_resnet50',
    'rlalstm_resnet50',
    'rla_resnet50@residual',
)


def hollow(shapes):
    """Weights of given shapes that take no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def deeper(shapes):
    """The layout at depth 101: 17 more blocks in the third stage."""
    result = {}
    for name, shape in shapes.items():
        result[name] = shape
        match = re.match(r'(stages|stage_bns)\.2\.5\.(.*)', name)
        if match:
            for b in range(6, 23):
                result[f'{match[1]}.2.{b}.{match[2]}'] = shape
    return result


def without(shapes, pattern):
    return {n: s for n, s in shapes.items() if not re.match(pattern, n)}


def with_gru(shapes, names):
    """The layout with ConvGRU cells whose five modules have these names."""
    gates, reset, update, candidate, norm = names
    result = without(shapes, r'recurrent_convs|bn2\.')
    for s in range(4):
        cell = {
            f'{gates}.weight': [64, 64, 3, 3],
            f'{gates}.bias': [64],
            f'{reset}.weight': [32],
            f'{reset}.bias': [32],
            f'{update}.weight': [32],
            f'{update}.bias': [32],
            f'{candidate}.weight': [32, 64, 3, 3],
            f'{candidate}.bias': [32],
            f'{norm}.weight': [32],
            f'{norm}.bias': [32],
        }
        result.update({f'recurrent_convs.{s}.{n}': v for n, v in cell.items()})
    return result


def without_exchange(shapes):
    result = dict(shapes)
    for name in shapes:
        if re.match(r'stages\.\d+\.\d+\.conv1\.weight', name):
            result[name] = [shapes[name][0], shapes[name][1] - 32, 1, 1]
    return result


def wider(shapes):
    """ResNet-50 with 32 more channels in every stage, by torchvision's names."""
    plain = without(
        without_exchange(shapes), r'conv_outs|recurrent_convs|stage_bns|bn2\.'
    )
    result = {}
    for name, shape in plain.items():
        match = re.match(r'stages\.(\d)\.(\d)\.(\w+)', name)
        if match:
            new = f'layer{int(match[1]) + 1}.{match[2]}.{name[11:]}'
            inner = match[3] in ('conv1', 'bn1', 'conv2', 'bn2')
            shape = [*shape]
            if shape:
                shape[0] += 8 if inner else 32
            if len(shape) == 4:
                first = match[2] == '0' and match[3] in ('conv1', 'downsample')
                if not (first and match[1] == '0'):
                    shape[1] += 32 if match[3] in ('conv1', 'downsample') else 8
            result[new] = shape
        else:
            result[name] = shape
    return result


def with_eca(shapes, suffix='eca.conv'):
    """The MobileNetV2 layout with ECA after each block, kernel by channels."""
    result = dict(shapes)
    for name, shape in shapes.items():
        match = re.match(r'(stages\.\d+\.\d+)\.conv\.1\.weight', name)
        if match:
            kernel = 1 if shape[0] < 96 else 3
            result[f'{match[1]}.{suffix}.weight'] = [1, 1, kernel]
    return result


def with_full_conv(shapes):
    result = without(shapes, 'recurrent_dsconvs')
    result.update({f'recurrent_convs.{i}.weight': [32, 32, 3, 3] for i in range(5)})
    return result


ECA_KERNELS = [dict(type='ECALayer', kernel_size=k) for k in (1, 1, 1, 1, 3, 3, 3)]
MOBILE = dict(tied=True, integration='v1')
GRU_NAMES = [
    'gate_conv reset_gate_norm update_gate_norm output_conv output_norm'.split(),
    'conv_gates norm_r norm_u conv_can norm_c'.split(),
    'cell.conv_ur cell.update_norm cell.reset_norm cell.conv_h cell.out_norm'.split(),
]
# (name, layout it is derived from, how, depth and wiring of our backbone,
# activation of the last state)
DERIVED = [
    ('rlav1_resnet50', 'rla_resnet50', dict, dict(integration='v3'), 'Tanh'),
    ('rlav3_resnet50', 'rla_resnet50', dict, dict(integration='v3'), 'ReLU'),
    ('rlav4_resnet50', 'rla_resnet50', dict, dict(integration='v4'), 'ReLU'),
    ('rlav6_resnet50', 'rla_resnet50', dict, dict(integration='v6'), 'ReLU'),
    ('rlav1_resnet50@residual', 'rla_resnet50', dict, dict(integration='v1'), 'Tanh'),
    ('rlav2_resnet50@residual', 'rla_resnet50', dict, dict(integration='v2'), 'ReLU'),
    (
        'rlav1p_resnet50',
        'rla_resnet50',
        lambda shapes: without(shapes, r'bn2\.'),
        dict(integration='v3', cell='post-act'),
        None,
    ),
    # A norm of the last state in the file, which such a network does not use.
    (
        'rlav1p_resnet50',
        'rla_resnet50',
        dict,
        dict(integration='v3', cell='post-act'),
        None,
    ),
    (
        'rlarh_resnet50',
        'rla_resnet50',
        without_exchange,
        dict(integration='v3', exchange=False),
        'ReLU',
    ),
    (
        'rlalstm_resnet50@residual',
        'rlalstm_resnet50',
        dict,
        dict(integration='v1', cell='convlstm'),
        None,
    ),
    *[
        (
            'rlagru_resnet50',
            'rla_resnet50',
            lambda shapes, names=names: with_gru(shapes, names),
            dict(integration='v3', cell='convgru'),
            None,
        )
        for names in GRU_NAMES
    ],
    (
        'rla_resnet101',
        'rla_resnet50',
        deeper,
        dict(depth=101, integration='v3'),
        'ReLU',
    ),
    (
        'rlaus_resnet101',
        'rlaus_resnet50',
        deeper,
        dict(depth=101, integration='v1', shared=False),
        'ReLU',
    ),
    (
        'rla_resnext101_32x4d_se',
        'rla_resnext50_32x4d_se',
        deeper,
        dict(
            depth=101,
            integration='v3',
            groups=32,
            width_per_group=4,
            attention=dict(type='SELayer'),
        ),
        'ReLU',
    ),
    (
        'dsrla_mobilenetv2_k32_eca',
        'dsrla_mobilenetv2_k32',
        with_eca,
        dict(MOBILE, recurrent_conv='depthwise', attention=ECA_KERNELS),
        'ReLU6',
    ),
    (
        'dsrla_mobilenetv2_k32_eca',
        'dsrla_mobilenetv2_k32',
        lambda shapes: with_eca(shapes, 'conv.3.conv'),
        dict(MOBILE, recurrent_conv='depthwise', attention=ECA_KERNELS),
        'ReLU6',
    ),
    (
        'rla_mobilenetv2_k32',
        'dsrla_mobilenetv2_k32',
        with_full_conv,
        dict(MOBILE, recurrent_conv='full'),
        'ReLU6',
    ),
]


@pytest.mark.parametrize(
    'name, base, derive, args, act',
    DERIVED,
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_every_released_network_maps_onto_ours(released, name, base, derive, args, act):
    weights = hollow(derive(released.layouts[base]['keys']))
    arch = recognise_weights(weights, name)

    converted = to_mmrla(weights, arch)

    mobilenet = 'mobilenet' in name
    kind = 'RLAMobileNetV2' if mobilenet else 'RLAResNet'
    depth = {} if mobilenet else dict(depth=50)
    backbone = MODELS.build(dict(type=kind, return_hidden=True, **{**depth, **args}))
    neck = dict(type='RLANeck', rla_channels=32)
    if mobilenet:
        neck.update(in_channels=320, out_channels=1280)
    if act != 'ReLU':
        neck['act_cfg'] = act and dict(type=act)
    if act is None:
        neck['norm_cfg'] = None
    neck = MODELS.build(neck)
    own = {f'backbone.{n}': v for n, v in backbone.state_dict().items()}
    own.update({f'neck.{n}': v for n, v in neck.state_dict().items()})
    head = {n: converted.pop(n) for n in ('head.fc.weight', 'head.fc.bias')}
    assert {n: v.shape for n, v in converted.items()} == {
        n: v.shape for n, v in own.items() if not n.endswith('.wiring')
    }
    assert head['head.fc.weight'].shape[0] == 1000

    built = MODELS.build(arch.backbone_cfg('cls'))
    assert built.cell == backbone.cell
    for n, v in built.state_dict().items():
        if n.endswith('.wiring'):
            assert torch.equal(v, own[f'backbone.{n}'])
    built_neck = MODELS.build(arch.neck_cfg())
    assert torch.equal(built_neck.hidden.wiring, neck.hidden.wiring)


def test_wider_resnet_maps_onto_ours(released):
    weights = hollow(wider(released.layouts['rla_resnet50']['keys']))
    assert 'layer1.0.conv1.weight' in weights

    arch = recognise_weights(weights, 'resnet50_k')

    backbone = MODELS.build(
        dict(type='RLAResNet', depth=50, rla_channels=0, extra_channels=32)
    )
    converted = to_mmrla(weights, arch)
    assert converted.pop('head.fc.weight').shape == (1000, 2048 + 32)
    assert converted.pop('head.fc.bias').shape == (1000,)
    assert {n[len('backbone.') :]: v.shape for n, v in converted.items()} == {
        n: v.shape for n, v in backbone.state_dict().items()
    }
    assert arch.classifier_cfg()['neck']['type'] == 'GlobalAveragePooling'


@pytest.mark.parametrize('name', LAYOUTS)
def test_names_and_order_without_a_record_of_the_file(released, name):
    layout = released.layouts[name]
    weights = hollow(layout['keys'])
    arch = recognise_weights(weights, name)

    back = to_released(to_mmrla(weights, arch), arch)

    assert list(back) == list(layout['keys'])
    assert all(back[n].shape == v.shape for n, v in weights.items())


@pytest.mark.parametrize(
    'base, derive, expected',
    [
        ('rla_resnet50', dict, 'rla_resnet50'),
        ('rla_resnet50', deeper, 'rla_resnet101'),
        ('rla_resnet50_eca', dict, 'rla_resnet50_eca'),
        ('rla_resnext50_32x4d_se', dict, 'rla_resnext50_32x4d_se'),
        ('rla_resnet50', without_exchange, 'rlarh_resnet50'),
        ('rla_resnet50', lambda s: without(s, r'bn2\.'), 'rlav1p_resnet50'),
        # A backbone alone has no norm of the last state either.
        ('rla_resnet50', lambda s: without(s, r'bn2\.|fc\.'), 'rla_resnet50'),
        ('rla_resnet50', lambda s: with_gru(s, GRU_NAMES[0]), 'rlagru_resnet50'),
        ('rla_resnet50', wider, 'resnet50_k'),
        ('rlalstm_resnet50', dict, 'rlalstm_resnet50'),
        ('rlaus_resnet50', dict, 'rlaus_resnet50'),
        ('dsrla_mobilenetv2_k32', dict, 'dsrla_mobilenetv2_k32'),
        ('dsrla_mobilenetv2_k32', with_full_conv, 'rla_mobilenetv2_k32'),
    ],
)
def test_network_is_guessed_from_names_and_shapes(released, base, derive, expected):
    weights = hollow(derive(released.layouts[base]['keys']))
    assert recognise_weights(weights).name == expected


@pytest.mark.parametrize(
    'base, name, difference',
    [
        ('rla_resnet50', 'rla_resnet101', 'depth 101 by name, 50 here'),
        ('rla_resnet50', 'rla_resnet50_eca', 'attention eca by name, None here'),
        ('rla_resnet50_eca', 'rla_resnet50', 'attention None by name, eca here'),
        ('rla_resnet50', 'rla_resnext50_32x4d', 'groups 32 by name, 1 here'),
        ('rla_resnet50', 'rlalstm_resnet50', 'cell convlstm by name, conv here'),
        ('rlalstm_resnet50', 'rlav2_resnet50', 'cell conv by name, convlstm here'),
        ('rla_resnet50', 'rlaus_resnet50', 'shared False by name, True here'),
        ('rla_resnet50', 'rlarh_resnet50', 'exchange False by name, True here'),
        ('rla_resnet50', 'resnet50_k', 'rla_channels 0 by name, 32 here'),
        ('rla_resnet50', 'dsrla_mobilenetv2_k32', 'family mobilenet_v2 by name'),
        ('dsrla_mobilenetv2_k32', 'rla_mobilenetv2_k32', 'first part rla by name'),
        ('dsrla_mobilenetv2_k32', 'dsrla_mobilenetv2_k12', 'rla_channels 12 by name'),
    ],
)
def test_name_that_does_not_fit_is_refused(released, base, name, difference):
    weights = hollow(released.layouts[base]['keys'])
    with pytest.raises(CheckpointError, match=difference) as error:
        recognise_weights(weights, name)
    # The remedy: what the weights are.
    assert base in str(error.value)


@pytest.mark.parametrize(
    'name',
    [
        'resnet',
        'rla_vgg16',
        'rlax_resnet50',
        'dsrla_resnet50',
        'rla_resnet50_cbam',
        'rla_resnet50@paper',
        '',
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(UnknownArchError, match='names no released network') as error:
        parse_name(name)
    assert NAMES in str(error.value)


def test_name_of_a_published_file_is_known():
    assert parse_name('ecanet101_rla_2100').text == 'rla_resnet101_eca'


def test_weights_of_other_networks_are_refused(released):
    with pytest.raises(CheckpointError, match='no weights of a released network'):
        recognise({'features.0.weight': (64, 3, 3, 3)})

    shapes = released.layouts['rla_resnet50']['keys']
    basic = without(shapes, r'stages\.\d\.\d\.conv3')
    with pytest.raises(CheckpointError, match='basic blocks are no RLA-ResNet'):
        recognise_weights(hollow(basic))

    gap = without(shapes, r'stages\.2\.3\.')
    with pytest.raises(CheckpointError, match=r'stages\.2\.3 is missing'):
        recognise_weights(hollow(gap))

    mixed = dict(shapes)
    mixed['stages.0.0.eca.conv.weight'] = [1, 1, 5]
    with pytest.raises(CheckpointError, match='different attention modules'):
        recognise_weights(hollow(mixed))


def test_cell_of_another_kind_is_refused(released):
    shapes = with_gru(released.layouts['rla_resnet50']['keys'], GRU_NAMES[0])
    shapes = without(shapes, r'recurrent_convs\.\d\.output_norm')
    with pytest.raises(CheckpointError, match='part of no cell that is known'):
        canonical_names({n: tuple(s) for n, s in shapes.items()})


def test_unknown_weight_is_refused_by_name(released):
    shapes = released.layouts['rla_resnet50']['keys']
    weights = hollow({**shapes, 'stages.0.0.conv9.weight': [1, 1, 1, 1]})
    arch = recognise_weights(weights)
    with pytest.raises(
        CheckpointError, match=r'stages\.0\.0\.conv9\.weight is no weight'
    ):
        to_mmrla(weights, arch)


def test_copies_of_the_tied_conv_must_be_equal(released):
    weights = hollow(released.layouts['dsrla_mobilenetv2_k32']['keys'])
    arch = recognise_weights(weights)
    weights['recurrent_dsconvs.3.weight'] = torch.ones(32, 1, 3, 3)
    with pytest.raises(
        CheckpointError, match=r'recurrent_dsconvs\.3\.weight is not equal'
    ):
        to_mmrla(weights, arch)


@pytest.mark.parametrize('names', GRU_NAMES)
def test_parts_of_a_gru_cell_are_found_by_role(released, names):
    shapes = with_gru(released.layouts['rla_resnet50']['keys'], names)
    found = canonical_names({n: tuple(s) for n, s in shapes.items()})
    gates, reset, update, candidate, norm = names
    # Names that say which norm it is come before the order in the file.
    if 'reset' in update:
        reset, update = update, reset
    for own, role in [
        (gates, 'gate_conv'),
        (reset, 'reset_gate_norm'),
        (update, 'update_gate_norm'),
        (candidate, 'output_conv'),
        (norm, 'output_norm'),
    ]:
        assert (
            found[f'recurrent_convs.2.{own}.weight']
            == f'recurrent_convs.2.{role}.weight'
        )
