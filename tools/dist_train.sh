#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Train on GPUS processes of this machine: one for each GPU, or on the CPU where
# there is none.
#
#   dist_train.sh CONFIG GPUS [ARGS of train.py]
#
# Environment: NNODES, NODE_RANK, MASTER_ADDR, PORT (see dist_run.py), PYTHON.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: ${0##*/} CONFIG GPUS [ARGS]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/environment.sh
source "$tools/environment.sh"
exec "$PYTHON" "$tools/dist_run.py" "$gpus" \
    "$tools/train.py" "$config" --launcher pytorch "$@"
