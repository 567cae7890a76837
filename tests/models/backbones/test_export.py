# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""ONNX, TorchScript and torch.export of every family."""

import functools
import inspect
import io
import platform
import re
import warnings
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmrla.models.fused import switch_to_deploy

from .conftest import CASES, FAMILIES, FAST, Case, each

OPSET = 17
#: The exporter of docs/export.md, no longer the default from torch 2.9 on.
EXPORTER: Dict[str, Any] = (
    dict(dynamo=False)
    if 'dynamo' in inspect.signature(torch.onnx.export).parameters
    else {}
)
#: Sizes of images: the first to export with, all to run. Odd ones make the pooling of
#: the hidden state round up.
SIZES = [(2, 3, 64, 64), (1, 3, 97, 65), (3, 3, 33, 130)]
ONE_EACH = [case for case in FAMILIES if case.name in FAST]


def _randomise(model: nn.Module) -> nn.Module:
    """Give norms statistics as after training, so that none is the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            module.weight.data.uniform_(0.4, 0.8, generator=generator)
            module.bias.data.normal_(std=0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.2, generator=generator)
    model.eval()  # upstream's train() returns None
    return model


def _backbone(case: Case) -> nn.Module:
    """The network with all outputs, and with the hidden state if it has one."""
    outputs = max(case.stages, case.last + 1)
    kwargs: Dict[str, Any] = dict(out_indices=tuple(range(outputs)))
    if case.rla_channels:
        kwargs['return_hidden'] = True
    return _randomise(case.build(**kwargs))


def _inputs() -> List[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*size, generator=generator) for size in SIZES]


def _listed(outs: Any) -> List[Tensor]:
    return [outs] if isinstance(outs, Tensor) else list(outs)


def _export(model: nn.Module, x: Tensor) -> bytes:
    """The ONNX file of a network, for any batch and size."""
    with torch.no_grad():
        outs = {f'out{i}': out for i, out in enumerate(_listed(model(x)))}
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    dynamic = {n: axes if out.dim() == 4 else {0: 'batch'} for n, out in outs.items()}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # They warn of shapes that become constants; the test runs other shapes.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model,
            (x,),
            file,
            opset_version=OPSET,
            input_names=['images'],
            output_names=list(outs),
            dynamic_axes=dict(images=axes, **dynamic),
            **EXPORTER,
        )
    return file.getvalue()


def _assert_onnx(model: nn.Module) -> None:
    """Check that the file is valid and that ONNX Runtime agrees with torch."""
    onnx = pytest.importorskip('onnx')
    runtime = pytest.importorskip('onnxruntime')
    inputs = _inputs()
    content = _export(model, inputs[0])
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert [o.version for o in proto.opset_import if not o.domain] == [OPSET]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        content, options, providers=['CPUExecutionProvider']
    )
    for x in inputs:
        with torch.no_grad():
            expected = _listed(model(x))
        got = session.run(None, {'images': x.numpy()})
        _assert_near([torch.from_numpy(g) for g in got], expected)


def _assert_near(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        assert a.shape == b.shape
        # Relative to the largest value, which must not vanish.
        scale = b.abs().max()
        assert scale > 1e-3
        assert (a - b).abs().max() / scale < 1e-4


@each(FAMILIES, fast=['resnet-v3', 'mobilenet-released', 'preact-v1'])
def test_onnx(case: Case) -> None:
    _assert_onnx(_backbone(case))


@each([case for case in ONE_EACH if case in CASES], fast=['mobilenet-released'])
def test_onnx_of_the_deployed_form(case: Case) -> None:
    _assert_onnx(switch_to_deploy(_backbone(case)))


@pytest.mark.skipif(
    platform.machine() != 'x86_64', reason='ONNX Runtime fuses less elsewhere'
)
@pytest.mark.parametrize('integration', ['v1', 'v3'])
def test_onnx_runtime_fuses_all_but_convs(integration: str, tmp_path: Path) -> None:
    """In the deployed form, for images of any size: no sums, no activations."""
    onnx = pytest.importorskip('onnx')
    runtime = pytest.importorskip('onnxruntime')
    kwargs = dict(depth=50, base_channels=16, stem_channels=16, rla_channels=16)
    cfg = dict(type='mmpretrain.RLAResNet', integration=integration, **kwargs)
    model = _randomise(MODELS.build(dict(cfg, return_hidden=True)))
    content = _export(switch_to_deploy(model), torch.randn(1, 3, 64, 64))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    nodes = [n.op_type for n in onnx.load(tmp_path / 'optimised.onnx').graph.node]
    assert nodes.count('AveragePool') == 3
    assert set(nodes) == {'Conv', 'MaxPool', 'AveragePool', 'ReorderOutput'}


@each(FAMILIES, fast=['resnet-v3', 'densenet-lag'])
def test_torchscript_trace(case: Case) -> None:
    model = _backbone(case)
    inputs = _inputs()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(model, inputs[0])
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for x in inputs:
        with torch.no_grad():
            _assert_near(_listed(loaded(x)), _listed(model(x)))


def _torch_export(model: nn.Module, x: Tensor) -> Any:
    export = pytest.importorskip('torch.export')
    torch._dynamo.reset()
    return export.export(model, (x,))


@each(ONE_EACH, fast=['preact-v1'])
def test_torch_export(case: Case) -> None:
    model = _backbone(case)
    x = _inputs()[0]
    with torch.no_grad():
        program = _torch_export(model, x)
        _assert_near(_listed(program.module()(x)), _listed(model(x)))


# --- with neck and head ---


class Classifier(nn.Module):
    """An mmpretrain classifier as a module: images to scores (N, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _classifier(case: Case) -> nn.Module:
    pytest.importorskip('mmpretrain')
    hidden = case.rla_channels
    backbone = dict(type=case.type, out_indices=(case.last,), **case.kwargs)
    neck: Dict[str, Any] = dict(type='GlobalAveragePooling')
    if hidden:
        backbone['return_hidden'] = True
        neck = dict(type='RLANeck', rla_channels=hidden)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        probe = MODELS.build(backbone)
        probe.eval()
        with torch.no_grad():
            channels = probe(torch.zeros(1, 3, 64, 64))[0].shape[1]
        head = dict(type='RLALinearClsHead', num_classes=7, in_channels=channels)
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                backbone=backbone,
                neck=neck,
                head=dict(head, rla_channels=hidden),
            )
        )
        torch.manual_seed(0)
        model.init_weights()
    return Classifier(_randomise(model)).eval()


@each(ONE_EACH, fast=['resnet-v3'])
def test_onnx_of_classifiers(case: Case) -> None:
    _assert_onnx(_classifier(case))


def _detector(case: Case, out_indices: Sequence[int]) -> nn.Module:
    pytest.importorskip('mmdet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        import mmdet.models  # noqa: F401

        backbone = MODELS.build(
            dict(type=case.type, **case.kwargs, out_indices=out_indices)
        )
        backbone.eval()
        with torch.no_grad():
            outs = backbone(torch.zeros(1, 3, 64, 64))
        neck = MODELS.build(
            dict(
                type='FPN',
                in_channels=[out.shape[1] for out in outs],
                out_channels=16,
                num_outs=len(out_indices) + 1,
            )
        )
        torch.manual_seed(0)
        backbone.init_weights()
        neck.init_weights()
    return nn.Sequential(_randomise(backbone), neck).eval()


DETECTORS = [
    case
    for case in FAMILIES
    if case.name
    in ('resnet-v1', 'resnet-v3', 'resnet-eca', 'mobilenet', 'mobilenet-released')
]


@each(DETECTORS, fast=['resnet-v3'])
def test_onnx_of_backbone_and_fpn(case: Case) -> None:
    _assert_onnx(_detector(case, (0, 1, 2, 3)))


@pytest.mark.slow
@each([case for case in DETECTORS if case in ONE_EACH])
def test_trace_and_export_of_backbone_and_fpn(case: Case) -> None:
    model = _detector(case, (1, 2, 3))
    x = _inputs()[0]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(model, x)
        _assert_near(_listed(traced(x)), _listed(model(x)))
        program = _torch_export(model, x)
        _assert_near(_listed(program.module()(x)), _listed(model(x)))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
def test_snippets_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/export.md, one after the other."""
    pytest.importorskip('mmpretrain')
    pytest.importorskip('mmdet')
    pytest.importorskip('onnx')
    runtime = pytest.importorskip('onnxruntime')
    monkeypatch.chdir(tmp_path)
    exporter = functools.partial(torch.onnx.export, **EXPORTER)
    monkeypatch.setattr(torch.onnx, 'export', exporter)
    page = Path(__file__).resolve().parents[3] / 'docs' / 'export.md'
    blocks = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
    scope: Dict[str, Any] = {}
    for block in blocks:
        exec(block, scope)
    for name in ('rla', 'features'):
        session = runtime.InferenceSession(f'{name}.onnx')
        x = torch.randn(1, 3, 96, 160)
        with torch.no_grad():
            expected = _listed(scope['model' if name == 'rla' else 'features'](x))
        got = session.run(None, {'images': x.numpy()})
        for a, b in zip(got, expected):
            assert a.shape == b.shape
            assert abs(a - b.numpy()).max() <= 1e-4 * b.abs().max()
    assert torch.jit.load('rla.pt')(scope['images']).shape == (1, 1000)


@pytest.mark.parametrize('training', [True, False])
@each(CASES, fast=['resnet-v3', 'mobilenet', 'xception-v1'])
def test_torch_fx(case: Case, training: bool) -> None:
    """Symbolic tracing: no step branches on a value or a shape."""
    if case.name == 'resnest':
        pytest.skip("mmdet's ResNeSt cannot be traced either")
    model = case.build().train(training)
    with torch.random.fork_rng():
        graph = torch.fx.symbolic_trace(model)
    x = torch.randn(2, 3, 64, 64)
    model.eval()
    graph.eval()
    if training and 'mobilenet' in case.name:
        return  # the trace keeps the zero state doubled as in training
    with torch.no_grad():
        for a, b in zip(graph(x), model(x)):
            torch.testing.assert_close(a, b)
