# shellcheck shell=bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Sourced by the scripts beside it, with their folder as $tools: which Python runs
# the tools ($PYTHON, else .venv, else the one in the path), where it finds mmrla in
# a clone that is not installed, and how Slurm starts the processes.

root=$(dirname "${tools:?}")
if [ -z "${PYTHON:-}" ]; then
    if [ -x "$root/.venv/bin/python" ]; then
        PYTHON=$root/.venv/bin/python
    else
        PYTHON=$(command -v python || command -v python3 || true)
    fi
fi
if [ -z "$PYTHON" ]; then
    echo "${0##*/}: error: no python in the path; set PYTHON, or run make setup" >&2
    exit 2
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# slurm_run PARTITION JOB_NAME SCRIPT [ARGS]
slurm_run() {
    local partition=$1 job_name=$2 gpus=${GPUS:-8}
    local gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    shift 2
    local options=(
        -p "$partition"
        --job-name="$job_name"
        --ntasks="$gpus"
        --cpus-per-task="${CPUS_PER_TASK:-5}"
        --kill-on-bad-exit=1
    )
    if [ "$gpus_per_node" -gt 0 ]; then
        options+=(--gres="gpu:$gpus_per_node" --ntasks-per-node="$gpus_per_node")
    fi
    # Options of the user's, split at spaces as in upstream's scripts.
    local extra=()
    read -r -a extra <<< "${SRUN_ARGS:-}"
    srun "${options[@]}" ${extra[@]+"${extra[@]}"} "$PYTHON" -u "$@"
}
