# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Time networks against each other in one process, in interleaved rounds.

On a shared, noisy machine a single time means little. The ratio of two networks
timed in turn, over many rounds, is stable.
"""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from ..models.fused import switch_to_deploy, switch_to_fused_training
from ..progress import Progress
from ..registry import type_name
from .networks import build, is_detector
from .runtimes import export, open_session, profile, quantise

#: What autocast computes with; tf32 is for GPUs, int8 for other runtimes.
PRECISIONS = {
    'fp32': None,
    'tf32': None,
    'fp16': torch.float16,
    'bf16': torch.bfloat16,
    'int8': None,
}
MODES = ('inference', 'train')
#: The forms of mmrla.models.fused.
FORMS = ('default', 'fused', 'deployed')


@dataclass(frozen=True)
class Form:
    """How the networks run; the same for all in a comparison.

    Attributes:
        mode: 'inference' or 'train' (forward, backward and an SGD step).
        device: 'cpu' or 'cuda'.
        precision: 'fp32', on a GPU 'tf32' (float32 whose products round to TF32),
            'fp16' or 'bf16' by autocast, or in another runtime 'int8', calibrated
            with the images.
        channels_last: Memory format of images and weights.
        compile: Whether ``torch.compile`` wraps the forward pass.
        form: 'default'; 'deployed' for inference, 'fused' for training, see
            :mod:`mmrla.models.fused`. Plain ResNets and MobileNetV2 get it too.
        batch_size: Images in a batch.
        shape: Height and width of the images.
        cpu_time: Whether to measure CPU time, summed over threads, instead of wall
            time: more stable with one thread on a busy machine.
        runtime: 'torch', or one of :data:`mmrla.analysis.runtimes.RUNTIMES` for
            inference on the CPU of the network exported to ONNX: a classifier,
            or the backbone and neck of a detector. It gets torch's threads.
        cuda_graph: Whether a step is the replay of a CUDA graph; inference of a
            classifier.
    """

    mode: str = 'inference'
    device: str = 'cpu'
    precision: str = 'fp32'
    channels_last: bool = False
    compile: bool = False
    form: str = 'default'
    batch_size: int = 8
    shape: Tuple[int, int] = (224, 224)
    cpu_time: bool = False
    runtime: str = 'torch'
    cuda_graph: bool = False


@dataclass(frozen=True)
class Timing:
    """What was measured of one network.

    Attributes:
        name: The network.
        seconds: Median time of a step.
        images_per_second: Throughput at the median.
        ratio: Median of the round by round ratio to the first network.
        spread: 10th and 90th percentile of that ratio.
        memory: Peak bytes of a step: its tensors, the weights, momentum;
            None in another runtime.
        memory_ratio: Memory over the first network's.
        kernels: Operators (CPU) or kernels (GPU) that a step runs.
        profile: Seconds of a step by operator (CPU) or kernel (GPU), as the
            profiler sees them; compiled networks hide theirs.
    """

    name: str
    seconds: float
    images_per_second: float
    ratio: float
    spread: Tuple[float, float]
    memory: Optional[int]
    memory_ratio: Optional[float]
    kernels: int
    profile: Dict[str, float]


def _detection_batch(form: Form, num_classes: int) -> List[Any]:
    """Ten boxes an image, from a fixed seed, with masks of the boxes."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = np.random.RandomState(0)
    height, width = form.shape
    samples = []
    for _ in range(form.batch_size):
        corners = generator.uniform(0, 0.6, (10, 2)) * (width, height)
        sides = generator.uniform(0.1, 0.4, (10, 2)) * (width, height)
        boxes = np.concatenate((corners, corners + sides), 1).astype(np.float32)
        masks = np.zeros((10, height, width), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
            mask[y1:y2, x1:x2] = 1
        instances = InstanceData(
            bboxes=torch.from_numpy(boxes).to(form.device),
            labels=torch.arange(10, device=form.device) % num_classes,
            masks=BitmapMasks(masks, height, width),
        )
        meta = dict.fromkeys(
            ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), form.shape
        )
        sample = DetDataSample(metainfo=dict(meta, scale_factor=(1.0, 1.0)))
        sample.gt_instances = instances
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4, device=form.device)
        )
        samples.append(sample)
    return samples


def _classification_batch(form: Form) -> List[Any]:
    from mmpretrain.structures import DataSample

    return [DataSample().set_gt_label(i % 10) for i in range(form.batch_size)]


#: Peak memory, kernels and seconds by kernel of a step.
_Profile = Tuple[Optional[int], int, Dict[str, float]]


def _images(form: Form) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(form.batch_size, 3, *form.shape, generator=generator)


def _runtime_step(cfg: Config, form: Form) -> Tuple[Callable[[], Any], _Profile]:
    """A function that runs a config's network in another runtime, and its profile."""
    torch.manual_seed(0)
    model: Any = build(cfg)
    if form.form == 'deployed':
        model = switch_to_deploy(model)
    if is_detector(model):
        model = nn.Sequential(model.backbone, model.neck)
    images = _images(form)
    content = export(model, images)
    if form.precision == 'int8':
        content = quantise(content, [images.numpy()])
    how = form.runtime, content, images.numpy(), torch.get_num_threads()
    return open_session(*how), (None, *profile(*how))


def make_step(cfg: Config, form: Form) -> Tuple[Callable[[], Any], nn.Module]:
    """A function that runs one step of a config's network, and the network.

    Args:
        cfg: The config of a classifier or detector.
        form: How to run it.
    """
    torch.manual_seed(0)
    kind = type_name(cfg.model.backbone)
    if form.form == 'fused' and kind in ('ResNet', 'ResNeXt', 'MobileNetV2'):
        # Like for like: the plain network, which has no such form, as ours.
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.update(type=f'mmrla.RLA{kind}', rla_channels=0)
    model = build(cfg)
    detector = is_detector(model)
    if form.form == 'deployed':
        model = switch_to_deploy(model)
    elif form.form == 'fused':
        switch_to_fused_training(model)
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    model = model.to(form.device).to(memory_format=layout)  # type: ignore[call-overload]
    images = _images(form).to(form.device).contiguous(memory_format=layout)
    classes = getattr(getattr(model, 'bbox_head', None), 'num_classes', 10)
    samples = (
        _detection_batch(form, classes) if detector else _classification_batch(form)
    )
    dtype = PRECISIONS[form.precision]
    forward = torch.compile(model) if form.compile else model

    def autocast() -> Any:
        return torch.autocast(form.device, dtype=dtype, enabled=dtype is not None)

    if form.mode == 'inference':
        model.eval()

        @torch.no_grad()
        def step() -> None:
            with autocast():
                if detector:
                    forward(images, samples, mode='predict')
                else:
                    forward(images, mode='tensor')

        return _graphed(step) if form.cuda_graph else step, model

    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)

    def train_step() -> None:
        with autocast():
            losses = forward(images, samples, mode='loss')
        loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train_step, model


def _graphed(step: Callable[[], Any]) -> Callable[[], Any]:
    """The replay of a step, captured as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # cuDNN chooses its algorithms before the capture
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _cpu_peak(profile: torch.profiler.profile) -> int:
    """Peak of the bytes that were allocated under a profiler."""
    assert profile.profiler is not None
    assert profile.profiler.kineto_results is not None
    events: List[Any] = profile.profiler.kineto_results.events()
    records = [event for event in events if event.name() == '[memory]']
    records.sort(key=_start_of)
    return max(itertools.accumulate((r.nbytes() for r in records), initial=0))


def _start_of(event: Any) -> int:
    # Microseconds in torch 2.1, nanoseconds later.
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()


def _held_bytes(model: nn.Module, form: Form) -> int:
    """Weights, buffers and, in training, the optimizer's momentum."""
    tensors = [*model.parameters(), *model.buffers()]
    if form.mode == 'train':
        tensors += [p for p in model.parameters() if p.requires_grad]
    return sum(t.numel() * t.element_size() for t in tensors)


def _profile(step: Callable[[], Any], model: nn.Module, form: Form) -> _Profile:
    """Peak memory, kernels and seconds by kernel of a step.

    On the CPU an operator that calls no other one counts as a kernel.
    """
    cuda = form.device == 'cuda'
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    with torch.profiler.profile(activities=activities, profile_memory=True) as record:
        step()
        if cuda:
            torch.cuda.synchronize()
    held = _held_bytes(model, form)
    if cuda:
        from torch.autograd import DeviceType

        peak = torch.cuda.max_memory_allocated() - before
        events = [e for e in record.events() if e.device_type == DeviceType.CUDA]
    else:
        peak = _cpu_peak(record)
        events = [e for e in record.events() if e.name.startswith(('aten::', 'mkldnn'))]
    seconds: Dict[str, float] = {}
    for event in events:
        own = event.self_cpu_time_total
        if cuda:
            own = event.time_range.elapsed_us()
        seconds[event.name] = seconds.get(event.name, 0) + own / 1e6
    kernels = sum(cuda or not e.cpu_children for e in events)
    return held + peak, kernels, seconds


def _timed(step: Callable[[], Any], form: Form) -> float:
    """Seconds of one step; on a GPU between two events."""
    if form.device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    clock = time.process_time if form.cpu_time else time.perf_counter
    start_time = clock()
    step()
    return clock() - start_time


def compare(
    cfgs: Dict[str, Config],
    form: Form,
    rounds: int = 20,
    warmup: int = 3,
) -> List[Timing]:
    """Time networks against the first of them.

    Args:
        cfgs: Config of each network by its name.
        form: How they run.
        rounds: Rounds; in each every network does one step. Defaults to 20.
        warmup: Rounds before, not counted. Defaults to 3.

    Returns:
        One entry a network, in order.
    """
    if form.device == 'cuda':
        # torch's own default is TF32 in convs and not in products of matrices.
        torch.backends.cudnn.allow_tf32 = form.precision == 'tf32'
        torch.backends.cuda.matmul.allow_tf32 = form.precision == 'tf32'
    steps: Dict[str, Callable[[], Any]] = {}
    profiles: Dict[str, _Profile] = {}
    for name, cfg in cfgs.items():
        if form.runtime == 'torch':
            steps[name], model = make_step(cfg, form)
        else:
            steps[name], profiles[name] = _runtime_step(cfg, form)
        for _ in range(warmup):
            steps[name]()
        if form.runtime == 'torch':
            profiles[name] = _profile(steps[name], model, form)
    times: Dict[str, List[float]] = {name: [] for name in cfgs}
    names = list(cfgs)
    for i in Progress.over(range(rounds), rounds, 'rounds timed'):
        # Rotate who starts, so that no network always follows the same one.
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(_timed(steps[name], form))
    first = np.array(times[names[0]])
    results = []
    for name in names:
        own = np.array(times[name])
        low, middle, high = np.percentile(own / first, (10, 50, 90))
        memory, kernels, seconds = profiles[name]
        base = profiles[names[0]][0]
        results.append(
            Timing(
                name=name,
                seconds=float(np.median(own)),
                images_per_second=form.batch_size / float(np.median(own)),
                ratio=float(middle),
                spread=(float(low), float(high)),
                memory=memory,
                memory_ratio=memory / base if memory and base else None,
                kernels=kernels,
                profile=seconds,
            )
        )
    return results
