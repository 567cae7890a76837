# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Set-up of the processes of a distributed job, with GPUs and without."""

import os
from pathlib import Path
from typing import Any, Dict
from unittest import mock

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from ..errors import UserError

__all__ = ['environment_of', 'leave_processes', 'set_up_processes']

# Where a launcher says the number of a process on its machine.
_LOCAL_RANK = {
    'pytorch': 'LOCAL_RANK',
    'slurm': 'SLURM_LOCALID',
    'mpi': 'OMPI_COMM_WORLD_LOCAL_RANK',
}
# What MMEngine reads of what a launcher tells each process.
_NEEDED = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST', 'SLURM_LOCALID'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_LOCAL_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'MASTER_ADDR',
    ),
}
_STARTED_BY = {
    'pytorch': 'tools/dist_train.sh or tools/dist_test.sh (torchrun)',
    'slurm': 'tools/slurm_train.sh or tools/slurm_test.sh (srun)',
    'mpi': 'mpirun, with MASTER_ADDR set',
}


def environment_of(clone: Path) -> Dict[str, str]:
    """This process's environment, for tools that find the mmrla of a clone."""
    path = os.environ.get('PYTHONPATH')
    both = f'{clone}{os.pathsep}{path}' if path else str(clone)
    return {**os.environ, 'PYTHONPATH': both}


def set_up_processes(cfg: Config, launcher: str, local_rank: int = 0) -> None:
    """Join the processes of a job, before the runner is built.

    MMEngine keeps a process group that is there already. With GPUs it is made as
    MMEngine would make it. Without, MMEngine would ask CUDA for a device: the
    group is made for gloo then, and the model is wrapped without a device.

    Args:
        cfg (Config): The whole config, which is changed.
        launcher (str): 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank (int): The process's number on its machine, where the
            environment does not say it. Defaults to 0.

    Raises:
        UserError: The launcher has not started this process, or there are more
            processes on this machine than GPUs.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    missing = [name for name in _NEEDED[launcher] if name not in os.environ]
    if missing:
        raise UserError(
            f'--launcher {launcher}: {", ".join(missing)} not in the environment; '
            f'the processes are started by {_STARTED_BY[launcher]}'
        )
    env_cfg = cfg.get('env_cfg') or ConfigDict()
    # In MMEngine's order: joining fixes the start method of workers otherwise.
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    dist_cfg = dict(env_cfg.get('dist_cfg', {}))

    # MMEngine wraps the model for this device, whatever the launcher.
    rank = int(os.environ.get(_LOCAL_RANK[launcher], local_rank))
    os.environ['LOCAL_RANK'] = str(rank)
    gpus = torch.cuda.device_count()
    if gpus:
        if rank >= gpus:
            raise UserError(
                f'more processes than GPUs: this machine has {gpus}, process '
                f'{rank + 1} of it has none; start {gpus} at most'
            )
        init_dist(launcher, **dist_cfg)
        return
    dist_cfg['backend'] = 'gloo'
    _init_dist_on_cpu(launcher, **dist_cfg)
    wrapper = cfg.setdefault('model_wrapper_cfg', ConfigDict())
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    wrapper.setdefault('device_ids', None)
    wrapper.setdefault('broadcast_buffers', False)
    wrapper.setdefault(
        'find_unused_parameters', cfg.get('find_unused_parameters', False)
    )


def _init_dist_on_cpu(launcher: str, **dist_cfg: Any) -> None:
    """MMEngine's ``init_dist``, which knows the launchers, without its CUDA call."""
    with mock.patch.object(torch.cuda, 'set_device'):
        init_dist(launcher, **dist_cfg)


def leave_processes() -> None:
    """Leave the processes of a job, if there are others, at the end of a tool.

    A process that ends with threads of its group running can be aborted.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
