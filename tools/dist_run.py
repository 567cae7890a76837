#!/usr/bin/env python
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
"""Start a tool's processes on this machine with torchrun, with short errors.

    dist_run.py PROCESSES SCRIPT [ARGS]

Called by dist_train.sh and dist_test.sh. Environment: NNODES (machines, default 1),
NODE_RANK (this machine's number, default 0), MASTER_ADDR (the first machine, default
127.0.0.1) and PORT (default 29500; on one machine any free port).
"""

import logging
import os
import signal
import sys
import tempfile
from typing import List, NoReturn

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

#: Signals that the failure of another process may cause.
_OF_OTHERS = (signal.SIGTERM, signal.SIGABRT)


def fail(message: str, status: int = 2) -> NoReturn:
    """Exit with one line."""
    print(f'{os.path.basename(sys.argv[0])}: error: {message}', file=sys.stderr)
    sys.exit(status)


def number(name: str, text: str, least: int) -> int:
    """Parse an int with a lower bound."""
    if not text.isdecimal() or int(text) < least:
        fail(f'{name}={text!r} is not a whole number from {least} on')
    return int(text)


def main(argv: List[str]) -> None:
    """Run the processes; exit like the first one that failed."""
    if len(argv) < 2:
        fail('usage: dist_run.py PROCESSES SCRIPT [ARGS]')
    processes = number('GPUS', argv[0], 1)
    nodes = number('NNODES', os.environ.get('NNODES', '1'), 1)
    node_rank = number('NODE_RANK', os.environ.get('NODE_RANK', '0'), 0)
    port = number('PORT', os.environ.get('PORT', '29500'), 1)
    if node_rank >= nodes:
        fail(f'NODE_RANK={node_rank} is not below NNODES={nodes}')
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, str(threads))
    meeting = [f'--nnodes={nodes}', f'--node_rank={node_rank}']
    meeting += [f'--master_port={port}']
    meeting += [f'--master_addr={os.environ.get("MASTER_ADDR", "127.0.0.1")}']
    if nodes == 1 and 'PORT' not in os.environ:
        meeting = ['--standalone']  # at any port that is free
    # torch reports a failure on a page; the essentials are printed below.
    logging.disable(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # Errors in all processes are shown once (mmrla.engine.errors).
            os.environ['MMRLA_SHARED_FOLDER'] = folder
            arguments = [*meeting, f'--nproc_per_node={processes}', *argv[1:]]
            run.run(run.parse_args(['--monitor_interval=1', *arguments]))
    except (RuntimeError, ValueError) as error:
        text = ' '.join(str(error).split())
        fail(f'the processes cannot meet at PORT={port}: {text}; choose another')
    except ChildFailedError as error:
        # A killed process takes others with it, which report only that. A process
        # that exited by itself is why torch terminates the others. Either may make
        # the remaining ones abort.
        failures = error.failures.items()
        ended = [failure.exitcode for _, failure in failures if failure.exitcode > 0]
        killed = [(r, failure) for r, failure in failures if failure.exitcode < 0]
        first = [k for k in killed if -k[1].exitcode not in _OF_OTHERS]
        killed = first or ([] if ended else killed)
        if not killed:
            sys.exit(ended[0])  # it has reported why
        rank, failure = killed[0]
        name = signal.Signals(-failure.exitcode).name
        fail(f'process {rank} (pid {failure.pid}) died of {name}; job stopped', 1)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    finally:
        logging.disable(logging.NOTSET)


if __name__ == '__main__':
    main(sys.argv[1:])
