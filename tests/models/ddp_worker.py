# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""A process of test_ddp.py: reads networks from FILE, writes gradients beside it."""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import mmrla.models  # noqa: F401 - registers the backbones

torch.set_num_threads(1)


def main(path: str) -> None:
    """Run a step of each network on this process's share of the images."""
    from mmengine.registry import MODELS

    dist.init_process_group('gloo')
    rank, processes = dist.get_rank(), dist.get_world_size()
    content = torch.load(path, weights_only=True)
    gradients = []
    for cfg, state, images in zip(*content.values()):
        model = MODELS.build(cfg).double().eval()
        model.load_state_dict(state)
        wrapped = DistributedDataParallel(model, find_unused_parameters=False)
        share = images.chunk(processes)[rank]
        for _ in range(2):  # the second fails if the first left a parameter unused
            model.zero_grad()
            torch.stack(
                [out.square().mean() for out in wrapped(share)]
            ).sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    torch.save(gradients, f'{path}.{rank}')


if __name__ == '__main__':
    main(sys.argv[1])
