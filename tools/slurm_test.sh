#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Test under Slurm.
#
#   slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [ARGS of test.py]
#
# Environment: GPUS (of all machines, default 8), GPUS_PER_NODE (up to 8; 0 for a test
# on the CPU, with GPUS processes), CPUS_PER_TASK (5), SRUN_ARGS, PYTHON.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: ${0##*/} PARTITION JOB_NAME CONFIG CHECKPOINT [ARGS]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
checkpoint=$4
shift 4

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/environment.sh
source "$tools/environment.sh"
slurm_run "$partition" "$job_name" \
    "$tools/test.py" "$config" "$checkpoint" --launcher slurm "$@"
