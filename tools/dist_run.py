#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Start the processes of a tool on this machine: torchrun, with short errors.

    dist_run.py PROCESSES SCRIPT [ARGS]

Called by dist_train.sh and dist_test.sh. The environment has NNODES (machines,
default 1), NODE_RANK (number of this one, default 0), MASTER_ADDR (the first one,
default 127.0.0.1) and PORT (default 29500; on one machine any that is free).
"""

import logging
import os
import signal
import socket
import sys
import tempfile
from typing import List, NoReturn

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

DEFAULT_PORT = 29500
#: Signals that the failure of another process may bring.
_OF_OTHERS = (signal.SIGTERM, signal.SIGABRT)


def fail(message: str, status: int = 2) -> NoReturn:
    """End with one line."""
    print(f'{os.path.basename(sys.argv[0])}: error: {message}', file=sys.stderr)
    sys.exit(status)


def number(name: str, text: str, least: int) -> int:
    """An int that is not too small."""
    if not text.isdecimal() or int(text) < least:
        fail(f'{name}={text!r} is not a whole number from {least} on')
    return int(text)


def check_processes(processes: int) -> None:
    """Compare the number of processes with what the machine has."""
    gpus, cores = torch.cuda.device_count(), len(os.sched_getaffinity(0))
    if gpus and processes > gpus:
        fail(f'{processes} GPUs asked for, this machine has {gpus}')
    if not gpus and processes > cores:
        print(
            f'no GPU: {processes} processes on {cores} CPU cores are slower than '
            f'{cores}',
            file=sys.stderr,
        )


def choose_port(nodes: int, node_rank: int) -> int:
    """PORT, or a free one where no other machine has to know it."""
    port = os.environ.get('PORT')
    if port is None and nodes > 1:
        port = str(DEFAULT_PORT)
    with socket.socket() as probe:
        # A port in use a moment ago can be taken again, as torch does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wanted = 0 if port is None else number('PORT', port, 1)
        if wanted and node_rank:
            return wanted  # it is taken on the first machine
        try:
            probe.bind(('', wanted))
        except (OSError, OverflowError) as error:
            fail(f'PORT={port} cannot be used ({error}); choose another')
        return probe.getsockname()[1]


def main(argv: List[str]) -> None:
    """Run the processes; end as the first one that failed did."""
    if len(argv) < 2:
        fail('usage: dist_run.py PROCESSES SCRIPT [ARGS]')
    processes = number('GPUS', argv[0], 1)
    nodes = number('NNODES', os.environ.get('NNODES', '1'), 1)
    node_rank = number('NODE_RANK', os.environ.get('NODE_RANK', '0'), 0)
    if node_rank >= nodes:
        fail(f'NODE_RANK={node_rank} is not below NNODES={nodes}')
    check_processes(processes)
    cores = len(os.sched_getaffinity(0))
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, str(max(1, cores // processes)))
    arguments = [
        f'--nnodes={nodes}',
        f'--node_rank={node_rank}',
        f'--master_addr={os.environ.get("MASTER_ADDR", "127.0.0.1")}',
        f'--master_port={choose_port(nodes, node_rank)}',
        f'--nproc_per_node={processes}',
        '--monitor_interval=1',  # seconds
        *argv[1:],
    ]
    # torch's report of a failure is a page; what matters of it is said below.
    logging.disable(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Errors that they have in common are shown once (mmrla.engine.errors).
            os.environ['MMRLA_SHARED_FOLDER'] = folder
            run.run(run.parse_args(arguments))
    except ChildFailedError as error:
        # A process that was killed takes others with it, which say only that. One
        # that ended by itself is why torch terminates the others. Either may abort
        # those that it leaves.
        failures = error.failures.items()
        ended = [failure.exitcode for _, failure in failures if failure.exitcode > 0]
        killed = [(r, failure) for r, failure in failures if failure.exitcode < 0]
        first = [k for k in killed if -k[1].exitcode not in _OF_OTHERS]
        killed = first or ([] if ended else killed)
        if not killed:
            sys.exit(ended[0])  # it has said why
        rank, failure = killed[0]
        name = signal.Signals(-failure.exitcode).name
        fail(f'process {rank} (pid {failure.pid}) died of {name}; job stopped', 1)
    except SignalException as error:
        sys.exit(128 + error.sigval)


if __name__ == '__main__':
    main(sys.argv[1:])
