# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Export networks to ONNX and run them in ONNX Runtime or OpenVINO on the CPU."""

from __future__ import annotations

import inspect
import io
import json
import os.path as osp
import tempfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError

#: Modules that run ONNX files.
RUNTIMES = ('onnxruntime', 'openvino')
OPSET = 17


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({error}); pip install 'mmrla[runtimes]'"
        ) from error


def export(model: nn.Module, images: Tensor) -> bytes:
    """The ONNX file of a network, for images of this shape; its input is ``images``.

    Args:
        model: Takes ``images``; answers with tensors.
        images: (N, 3, H, W).

    Raises:
        UserError: If onnx is not installed.
    """
    _module('onnx')
    file = io.BytesIO()
    # torch 2.9 and newer have to be asked for this exporter.
    parameters = inspect.signature(torch.onnx.export).parameters
    how: Dict[str, Any] = dict(dynamo=False) if 'dynamo' in parameters else {}
    with warnings.catch_warnings():
        # Of shapes that are written as constants, as they are meant to be.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            model, (images,), file, opset_version=OPSET, input_names=['images'], **how
        )
    return file.getvalue()


def quantise(content: bytes, batches: Sequence[np.ndarray]) -> bytes:
    """An ONNX file with int8 weights, one scale a channel, and uint8 maps.

    Static quantisation of ONNX Runtime (operators between QuantizeLinear and
    DequantizeLinear, which OpenVINO reads too). Maps are uint8: on x86, ONNX Runtime
    leaves a conv in float32 if it reads an int8 map that something else reads as well.

    Args:
        content: The file; of the deployed form, since norms are not quantised.
        batches: Images to calibrate with, (N, 3, H, W) each, as the file takes them.

    Raises:
        UserError: If onnx or onnxruntime is not installed.
    """
    _module('onnx')
    tool = _module('onnxruntime.quantization')
    it = iter(batches)

    class Reader(tool.CalibrationDataReader):  # type: ignore[name-defined]
        def get_next(self) -> Any:
            batch = next(it, None)
            return None if batch is None else {'images': batch}

    with tempfile.TemporaryDirectory() as folder:
        source, target = (osp.join(folder, name) for name in ('float', 'int8'))
        Path(source).write_bytes(content)
        tool.shape_inference.quant_pre_process(source, source)
        tool.quantize_static(
            source,
            target,
            Reader(),
            per_channel=True,
            activation_type=tool.QuantType.QUInt8,
        )
        return Path(target).read_bytes()


def _onnxruntime(content: bytes, threads: int, profile: str = '') -> Any:
    runtime = _module('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return runtime.InferenceSession(
        content, options, providers=['CPUExecutionProvider']
    )


def _openvino(content: bytes, threads: int, profile: bool = False) -> Any:
    runtime = _module('openvino')
    how = dict(
        INFERENCE_NUM_THREADS=threads,
        PERFORMANCE_HINT='LATENCY',
        INFERENCE_PRECISION_HINT='f32',
        PERF_COUNT=profile,
    )
    core = runtime.Core()
    compiled = core.compile_model(core.read_model(content), 'CPU', how)
    return compiled.create_infer_request()


def open_session(
    runtime: str, content: bytes, images: np.ndarray, threads: int
) -> Callable[[], List[np.ndarray]]:
    """A function that runs an ONNX file once and returns its outputs.

    Args:
        runtime: One of :data:`RUNTIMES`.
        content: The file.
        images: What it reads, (N, 3, H, W).
        threads: CPU threads.

    Raises:
        UserError: If the runtime is not installed.
    """
    if runtime == 'onnxruntime':
        session = _onnxruntime(content, threads)
        return lambda: session.run(None, {'images': images})
    request = _openvino(content, threads)
    return lambda: list(request.infer({'images': images}).values())


def profile(
    runtime: str, content: bytes, images: np.ndarray, threads: int, runs: int = 10
) -> Tuple[int, Dict[str, float]]:
    """How many operators a runtime makes of an ONNX file, and seconds by operator.

    Args:
        runtime: See :func:`open_session`, for the next three arguments too.
        content: The file.
        images: What it reads.
        threads: CPU threads.
        runs: Of each node of the graph the fastest of so many runs counts, so that
            other work on the machine does not. Defaults to 10.
    """
    nodes: Dict[str, Tuple[str, float]] = {}

    def add(name: str, operator: str, seconds: float) -> None:
        nodes[name] = operator, min(seconds, nodes.get(name, ('', seconds))[1])

    if runtime == 'onnxruntime':
        with tempfile.TemporaryDirectory() as folder:
            session = _onnxruntime(content, threads, osp.join(folder, 'profile'))
            for _ in range(runs):
                session.run(None, {'images': images})
            with open(session.end_profiling(), encoding='utf-8') as file:
                events = json.load(file)
        for event in events:
            if event['name'].endswith('_kernel_time'):
                operator = event['args']['op_name']
                add(event['name'], operator, event['dur'] / 1e6)
    else:
        request = _openvino(content, threads, profile=True)
        for _ in range(runs):
            request.infer({'images': images})
            for node in request.profiling_info:
                if node.status == node.Status.EXECUTED:
                    operator = f'{node.node_type} {node.exec_type}'
                    add(node.node_name, operator, node.real_time.total_seconds())
    by_operator: Dict[str, float] = {}
    for operator, seconds in nodes.values():
        by_operator[operator] = by_operator.get(operator, 0) + seconds
    return len(nodes), by_operator
