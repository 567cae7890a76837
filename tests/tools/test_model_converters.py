# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
import hashlib
import sys

import numpy as np
import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, DefaultScope

from mmrla.engine.upstream import load_tool

from .conftest import TOOLS, call, error_line, run

TO_MMRLA = 'model_converters/rlanet_to_mmrla'
TO_RLANET = 'model_converters/mmrla_to_rlanet'
PUBLISH = 'model_converters/publish_model'
VERIFY = 'model_converters/verify'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('weights')


@pytest.fixture(scope='module')
def mobilenet(released, folder):
    """A file of dsrla_mobilenetv2_k32, and the converted one."""
    src = released.save('dsrla_mobilenetv2_k32', folder / 'dsrla.pth.tar')
    call(TO_MMRLA, src, folder / 'mmrla.pth')
    return src, folder / 'mmrla.pth'


@pytest.fixture(scope='module')
def golden(released, folder):
    path = folder / 'golden.npz'
    np.savez(path, **released.golden)
    return path


def read(path):
    return torch.load(path, weights_only=True)


def test_conversion_report(mobilenet, tmp_path, capsys):
    call(TO_MMRLA, mobilenet[0], tmp_path / 'new/out.pth')
    lines = dict(line.split(':', 1) for line in capsys.readouterr().out.splitlines())
    assert lines['network'].split() == [
        'dsrla_mobilenetv2_k32',
        '(by',
        'the',
        "file's",
        'arch)',
    ]
    assert lines['config'].split() == [
        'configs/rla_mobilenet_v2/rla-mobilenet-v2-released_2xb48_in1k.py'
    ]
    assert 'top-1 error (%) 27.62' in lines['published']
    assert len(lines['source'].split()[1]) == 64
    assert str(tmp_path / 'new/out.pth') in lines['written']
    # The same file gives the same bytes.
    assert (tmp_path / 'new/out.pth').read_bytes() == mobilenet[1].read_bytes()


def test_config_can_be_saved(released, tmp_path):
    src = released.save('rlav5_resnet50', tmp_path / 'v5.pth.tar', constant=True)
    call(TO_MMRLA, src, tmp_path / 'v5.pth', '--save-config', tmp_path / 'v5.py')
    cfg = Config.fromfile(tmp_path / 'v5.py')
    assert cfg.model.backbone.integration == 'v5'


def test_round_trip(mobilenet, tmp_path, capsys):
    call(TO_RLANET, mobilenet[1], tmp_path / 'back.pth.tar')
    assert 'dsrla_mobilenetv2_k32' in capsys.readouterr().out
    original, back = read(mobilenet[0]), read(tmp_path / 'back.pth.tar')
    assert list(back['state_dict']) == list(original['state_dict'])
    for name, value in original['state_dict'].items():
        assert back['state_dict'][name].dtype == value.dtype
        assert torch.equal(back['state_dict'][name], value)
    # And once more in the other direction.
    call(TO_MMRLA, tmp_path / 'back.pth.tar', tmp_path / 'again.pth')
    again, first = read(tmp_path / 'again.pth'), read(mobilenet[1])
    assert list(again['state_dict']) == list(first['state_dict'])
    assert all(
        torch.equal(again['state_dict'][n], v) for n, v in first['state_dict'].items()
    )


def cut(src, path):
    path.write_bytes(src.read_bytes()[:-1000])


def page(src, path):
    path.write_text('<html>404</html>')


def nothing(src, path):
    pass


def other_network(src, path):
    torch.save({'features.0.weight': torch.zeros(3)}, path)


def plain_mobilenet(src, path):
    """In torchvision's names."""
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)


def plain_resnet(src, path):
    torch.save(torchvision.models.resnet18().state_dict(), path)


def wrong_shape(src, path):
    content = read(src)
    content['state_dict']['module.conv2.0.weight'] = torch.zeros(1280, 353, 1, 1)
    torch.save(content, path)


def logs(src, path):
    torch.save(dict(state_dict={}, message_hub=HistoryBuffer()), path)


@pytest.mark.parametrize(
    'make, args, message',
    [
        (nothing, [], 'does not exist'),
        (cut, [], 'truncated'),
        (page, [], 'is truncated or no file of torch.save'),
        (logs, [], 'refused: loading it needs mmengine.logging'),
        (other_network, [], 'no weights of a released network'),
        (plain_mobilenet, [], "a plain MobileNetV2 in torchvision's names"),
        (plain_mobilenet, ['--arch', 'rla_mobilenetv2_k32'], 'a plain MobileNetV2'),
        (plain_resnet, [], 'a plain network, which needs no conversion'),
        (wrong_shape, [], 'conv2.0.weight is (1280, 353, 1, 1)'),
        (None, ['--arch', 'rla_resnet50'], 'not the weights of rla_resnet50'),
        (None, ['--arch', 'resnet-50'], "'resnet-50' names no released network"),
        (None, ['--task', 'det'], '--task det, but the file has the weights of a'),
        (None, ['--task', 'segm'], 'invalid choice'),
        (None, ['--from-resnet'], 'unrecognized arguments'),
    ],
)
def test_bad_source_gives_one_line_and_no_file(
    mobilenet, tmp_path, capsys, make, args, message
):
    src = mobilenet[0]
    if make:
        src = tmp_path / 'src.pth'
        make(mobilenet[0], src)
    dst = tmp_path / 'dst.pth'
    dst.write_text('precious')

    status, line = error_line(capsys, TO_MMRLA, src, dst, *args)

    assert status in (1, 2)
    assert message in line
    assert dst.read_text() == 'precious'
    assert {p.name for p in tmp_path.iterdir()} <= {'src.pth', 'dst.pth'}


def test_bad_target_gives_one_line(mobilenet, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    for dst in (tmp_path, tmp_path / 'file' / 'dst.pth'):
        status, line = error_line(capsys, TO_MMRLA, mobilenet[0], dst)
        assert status in (1, 2)
        assert str(dst) in line


def test_source_may_be_replaced(released, tmp_path):
    src = released.save('rla_resnet50', tmp_path / 'one.pth', constant=True)
    call(TO_MMRLA, src, src)
    assert read(src)['meta']['arch'] == 'rla_resnet50'


def test_export_refuses_other_checkpoints(mobilenet, tmp_path, capsys):
    _, line = error_line(capsys, TO_RLANET, mobilenet[0], tmp_path / 'out.pth')
    assert 'no checkpoint of an RLA network of mmrla' in line
    assert not (tmp_path / 'out.pth').exists()


def test_verify_golden_outputs(mobilenet, golden, tmp_path, capsys):
    out = tmp_path / 'own.npz'
    call(VERIFY, mobilenet[1], '--golden', golden, '--save', out)
    text = capsys.readouterr().out
    assert text.splitlines()[0].startswith('dsrla_mobilenetv2_k32 ')
    assert text.splitlines()[0].endswith('ok')
    assert 'no layer looks wrong' in text
    # What it has saved is a golden file; it has the stage outputs too.
    call(VERIFY, mobilenet[1], '--golden', out)
    assert capsys.readouterr().out.count(' ok') == 9


def test_verify_with_a_config(mobilenet, golden, capsys):
    config = (
        TOOLS.parent
        / 'configs/rla_mobilenet_v2/rla-mobilenet-v2-released_2xb48_in1k.py'
    )
    call(VERIFY, mobilenet[1], '--golden', golden, '--config', config)
    assert ' ok' in capsys.readouterr().out
    # The paper's network has a unit for each stage.
    config = config.with_name(config.name.replace('-released', ''))
    _, line = error_line(capsys, VERIFY, mobilenet[1], '--config', config)
    assert 'belongs to another network than the config' in line


def test_verify_reports_bad_layers(mobilenet, golden, tmp_path, capsys):
    content = read(mobilenet[1])
    weights = content['state_dict']
    weights['backbone.layer3.1.conv.2.conv.weight'].zero_()
    weights['backbone.layer4.0.conv.0.bn.running_var'][3] = -1
    weights['backbone.rla.1.norms.0.running_mean'].zero_()
    weights['backbone.rla.1.norms.0.running_var'].fill_(1)
    torch.save(content, tmp_path / 'bad.pth')

    with pytest.raises(SystemExit) as ended:
        call(VERIFY, tmp_path / 'bad.pth', '--golden', golden)

    assert ended.value.code == 1
    table = {
        line.split()[0]: line.split(maxsplit=1)[1]
        for line in capsys.readouterr().out.splitlines()
    }
    assert table['dsrla_mobilenetv2_k32'].endswith('DIFFERENT')
    name = 'backbone.layer3.1.conv.2.conv'
    assert table[f'{name}.weight'] == 'is all zero'
    assert table[name] == 'output is all zero'
    name = 'backbone.layer4.0.conv.0.bn'
    assert table[f'{name}.running_var'] == 'has negative values'
    assert table[name] == 'output has NaN or infinity'
    assert 'never seen data' in table['backbone.rla.1.norms.0']
    # Later layers see the same NaN; the first one is what counts.
    assert 'backbone.layer2.0.conv.0.conv' not in table


def test_verify_bad_arguments(mobilenet, tmp_path, golden, capsys):
    (tmp_path / 'text.npz').write_text('no array')
    for args, message in [
        (['--golden', tmp_path / 'none.npz'], 'no such file'),
        (['--golden', tmp_path / 'text.npz'], 'no .npz file of NumPy'),
        (['--golden', golden, '--name', 'other'], 'has none of other'),
        (['--golden', golden, '--shape', 1, 3, 64, 96], 'differ in shape'),
    ]:
        status, line = error_line(capsys, VERIFY, mobilenet[1], *args)
        assert status == 2
        assert message in line
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'bare.pth')
    _, line = error_line(capsys, VERIFY, tmp_path / 'bare.pth')
    assert 'carries no config' in line


def test_publish_keeps_weights_and_meta(mobilenet, tmp_path, capsys):
    content = read(mobilenet[1])
    content.update(
        optimizer=dict(state={}), message_hub=HistoryBuffer(), param_schedulers=[]
    )
    content['meta'].update(
        palette=np.arange(3), epoch=np.int64(7), history=HistoryBuffer(), kept=(1, {2})
    )
    torch.save(content, tmp_path / 'epoch_12.pth')

    call(PUBLISH, tmp_path / 'epoch_12.pth', tmp_path / 'rla.pth')

    out = capsys.readouterr().out
    for name in ('optimizer', 'message_hub', 'param_schedulers', 'meta.history'):
        assert name in out.splitlines()[0]
    (written,) = tmp_path.glob('rla-*.pth')
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert written.name == f'rla-{digest[:8]}.pth'
    published = read(written)
    assert list(published) == ['meta', 'state_dict']
    assert published['meta']['arch'] == 'dsrla_mobilenetv2_k32'
    assert published['meta']['epoch'] == 7
    assert published['meta']['palette'].tolist() == [0, 1, 2]
    assert published['meta']['kept'] == (1, [2])
    assert 'history' not in published['meta']
    assert list(published['state_dict']) == list(content['state_dict'])
    assert {p.name for p in tmp_path.iterdir()} == {'epoch_12.pth', written.name}


def test_publish_keeps_requested_entries(mobilenet, tmp_path):
    torch.save(dict(state_dict={}, meta={}, ema=torch.ones(1)), tmp_path / 'in.pth')
    keys = '--save-keys', 'state_dict', 'ema'
    call(PUBLISH, tmp_path / 'in.pth', tmp_path / 'out', *keys)
    (written,) = tmp_path.glob('out-*.pth')
    assert list(read(written)) == ['state_dict', 'ema']


def test_publish_refuses_files_without_weights(tmp_path, capsys):
    torch.save([1], tmp_path / 'in.pth')
    _, line = error_line(capsys, PUBLISH, tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'has no state_dict' in line


def test_converter_is_a_program(mobilenet, tmp_path):
    tool, dst = TOOLS / f'{TO_MMRLA}.py', tmp_path / 'out.pth'
    done = run(sys.executable, tool, mobilenet[0], dst)
    assert (done.returncode, done.stderr) == (0, '')
    written, called = read(dst)['state_dict'], read(mobilenet[1])['state_dict']
    assert list(written) == list(called)
    assert all(written[name].equal(value) for name, value in called.items())


#: Runs a tool and prints the processor's time and the peak of the memory in use.
MEASURE = """
import re, runpy, sys, time
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())
print(time.process_time(), peak[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
def test_conversion_time_and_memory(released, tmp_path):
    weights = released.weights('rla_resnet50')
    momentum = {i: torch.rand_like(v) for i, v in enumerate(weights.values()) if v.ndim}
    src = tmp_path / 'big.pth.tar'
    torch.save(
        dict(
            arch='rla_resnet50',
            state_dict={f'module.{n}': v for n, v in weights.items()},
            optimizer=dict(state=momentum, param_groups=[]),
        ),
        src,
    )
    assert src.stat().st_size > 200e6
    done = run(
        sys.executable,
        '-c',
        MEASURE,
        TOOLS / f'{TO_MMRLA}.py',
        src,
        tmp_path / 'out.pth',
    )
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = map(float, done.stdout.splitlines()[-1].split())
    # The processor's time: others may use the machine too.
    assert seconds < 10
    assert kilobytes * 1024 < 1e9


def test_plain_mobilenet_after_suggested_conversion(tmp_path):
    """mmpretrain's tool renames torchvision's file, and RLA-MobileNetV2 takes it."""
    plain = torchvision.models.mobilenet_v2()
    torch.save(plain.state_dict(), tmp_path / 'src.pth')
    load_tool('mmpretrain', 'model_converters/mobilenetv2_to_mmpretrain.py').convert(
        tmp_path / 'src.pth', tmp_path / 'dst.pth'
    )
    path = str(tmp_path / 'dst.pth')
    init_cfg = dict(type='Pretrained', checkpoint=path, prefix='backbone.')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        backbone = MODELS.build(dict(type='RLAMobileNetV2', init_cfg=init_cfg))
    backbone.init_weights()
    assert (
        backbone.layer2[0]
        .conv[0]
        .conv.weight.equal(plain.features[2].conv[0][0].weight)
    )
