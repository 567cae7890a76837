#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Test on GPUS processes of this machine: one for each GPU, or on the CPU where
# there is none.
#
#   dist_test.sh CONFIG CHECKPOINT GPUS [ARGS of test.py]
#
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT (see dist_run.py), PYTHON.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: ${0##*/} CONFIG CHECKPOINT GPUS [ARGS]" >&2
    exit 2
fi
config=$1
checkpoint=$2
gpus=$3
shift 3

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/environment.sh
source "$tools/environment.sh"
exec "$PYTHON" "$tools/dist_run.py" "$gpus" \
    "$tools/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
