# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Set up the processes of a distributed job, with or without GPUs."""

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from subprocess import PIPE
from typing import Dict, Optional

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed.constants import default_pg_timeout

from ..errors import UserError

__all__ = ['environment_of', 'leave_processes', 'set_up_processes']

# Where a launcher gives each process its rank, the world size, its local rank, and
# what else MMEngine reads.
_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID', 'SLURM_NODELIST'),
    'mpi': (
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
        'MASTER_ADDR',
    ),
}
_STARTED_BY = {
    'pytorch': 'tools/dist_train.sh or tools/dist_test.sh (torchrun)',
    'slurm': 'tools/slurm_train.sh or tools/slurm_test.sh (srun)',
    'mpi': 'mpirun, with MASTER_ADDR set',
}


def environment_of(clone: Path) -> Dict[str, str]:
    """This process's environment, for tools that use a clone's mmrla."""
    path = os.environ.get('PYTHONPATH')
    both = f'{clone}{os.pathsep}{path}' if path else str(clone)
    return {**os.environ, 'PYTHONPATH': both}


def set_up_processes(cfg: Config, launcher: str, local_rank: int = 0) -> None:
    """Join the processes of a job, before the runner is built.

    MMEngine keeps an existing process group. With GPUs the group is made as MMEngine
    would. Without, MMEngine would ask CUDA for a device, so the group uses gloo and the
    model is wrapped without a device.

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
    names = _VARIABLES[launcher]
    # Older launchers give the local rank as an argument.
    missing = [n for n in names if n not in os.environ and n != 'LOCAL_RANK']
    if missing:
        raise UserError(
            f'--launcher {launcher}: {", ".join(missing)} not in the environment; '
            f'the processes are started by {_STARTED_BY[launcher]}'
        )
    env_cfg = cfg.get('env_cfg') or ConfigDict()
    # In MMEngine's order: joining would otherwise fix the workers' start method.
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    dist_cfg = dict(env_cfg.get('dist_cfg', {}))

    # MMEngine wraps the model for this device, whatever the launcher.
    rank = int(os.environ.get(names[2], local_rank))
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
    _join_on_cpu(launcher, dist_cfg.get('timeout'))
    wrapper = cfg.setdefault('model_wrapper_cfg', ConfigDict())
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    wrapper.setdefault('device_ids', None)
    wrapper.setdefault('broadcast_buffers', False)
    wrapper.setdefault(
        'find_unused_parameters', cfg.get('find_unused_parameters', False)
    )


def _join_on_cpu(launcher: str, timeout: Optional[float]) -> None:
    """MMEngine's ``init_dist`` for gloo, without asking CUDA for a device."""
    rank, size = _VARIABLES[launcher][:2]
    os.environ['RANK'], os.environ['WORLD_SIZE'] = os.environ[rank], os.environ[size]
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:  # of Slurm
        command = ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']]
        nodes = subprocess.run(command, stdout=PIPE, text=True, check=True).stdout
        os.environ['MASTER_ADDR'] = nodes.split()[0]
    seconds = timeout and timedelta(seconds=timeout)
    dist.init_process_group('gloo', timeout=seconds or default_pg_timeout)


def leave_processes() -> None:
    """Leave the process group, if there is one, at the end of a tool.

    A process that exits while threads of its group run may be aborted.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
