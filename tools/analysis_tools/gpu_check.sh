#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Checks mmrla on one GPU and measures what RLA costs there, in 20 minutes at most.
#
#   tools/analysis_tools/gpu_check.sh [--wheels DIR] [--out DIR] [--dry-run]
#
#   --wheels DIR  first install the wheels and sdists in DIR, without a network, into
#                 OUT/site: what the Python with torch lacks of mmengine, mmcv (its
#                 sdist is compiled for the GPU), mmdet, mmpretrain, their needs
#   --out DIR     folder of the results (default: work_dirs/gpu_check)
#   --dry-run     each kind of step on the CPU, with tiny images: does it run
#   PYTHON=FILE   which Python (default: as the other tools)
#
# OUT/gpu_check.json has how each step ended, and all ratios; OUT/STEP.log is what a
# step printed. The exit status is 1 if a step failed, or time was over before it.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tools=$(dirname "$here")
# shellcheck source=tools/environment.sh
source "$tools/environment.sh"

wheels='' out=work_dirs/gpu_check dry=''
while (($#)); do
    case $1 in
    --wheels) wheels=${2:?"--wheels needs a folder"} && shift 2 ;;
    --out) out=${2:?"--out needs a folder"} && shift 2 ;;
    --dry-run) dry=1 && shift ;;
    *) sed -n '4,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    esac
done
mkdir -p "$out" && out=$(cd "$out" && pwd -P) || exit 2
[[ -z $wheels ]] || wheels=$(cd "$wheels" && pwd -P) || exit 2
rm -rf "$out"/steps.tsv "$out"/*/benchmark.json
cd "$root" || exit 2
deadline=$((SECONDS + (${#dry} ? 3600 : 1140)))

# step NAME SECONDS COMMAND...: runs it for so long at most, and until all must end.
step() {
    local name=$1 limit=$2 start=$SECONDS status=0
    shift 2
    ((limit < deadline - SECONDS)) || limit=$((deadline - SECONDS))
    if ((limit < 10)); then
        status=no-time
    else
        timeout "$limit" "$@" >"$out/$name.log" 2>&1 </dev/null || status=$?
    fi
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - start)) | tee -a "$out/steps.tsv"
}

# bench NAME OPTIONS...: ratios, in OUT/NAME/benchmark.json.
bench() {
    local name=$1 limit=180
    shift
    if [[ -n $dry ]]; then
        limit=600
        set -- "$@" --device cpu --batch-size 1 --rounds 1 --warmup 1 --shape 64 64
    fi
    step "$name" $limit "$PYTHON" tools/analysis_tools/benchmark.py "$@" \
        --out "$out/$name"
}

if [[ -n $wheels ]]; then
    export PYTHONPATH=$out/site:$PYTHONPATH FORCE_CUDA=1 MMCV_WITH_OPS=1
    MAX_JOBS=$(nproc) step wheels 600 "$PYTHON" -m pip install --no-index --no-deps \
        --no-build-isolation --no-compile --upgrade --target "$out/site" "$wheels"/*
fi

tests=(-q -p no:cacheprovider tests/models/test_cuda.py)
if [[ -n $dry ]]; then
    export MMRLA_CUDA_TESTS=cpu
    step tests 1800 "$PYTHON" -m pytest "${tests[@]}" -m 'not slow'
    bench inference-bf16 --set resnet50 --form deployed --precision bf16 --channels-last
    bench detector-retinanet --set retinanet --mode train
else
    tests+=(tests/models/backbones/test_precision.py -k 'test_cuda or half_precision')
    step tests 240 "$PYTHON" -m pytest "${tests[@]}"
    many=(--set resnet50 --batch-size 64 --rounds 10)
    # What decides most comes first: time may be over.
    for precision in fp32 tf32 bf16 fp16; do
        bench "train-$precision" "${many[@]}" --mode train --precision $precision \
            --channels-last
        bench "inference-$precision" "${many[@]}" --form deployed \
            --precision $precision --channels-last
    done
    for precision in fp32 tf32; do
        bench "train-$precision-nchw" "${many[@]}" --mode train --precision $precision
        bench "train-$precision-fused" "${many[@]}" --mode train \
            --precision $precision --channels-last --form fused
    done
    for set in faster-rcnn retinanet mask-rcnn; do
        bench "detector-$set" --set $set --mode train --batch-size 2 --rounds 5
    done
    for batch in 32 128 256; do
        bench "train-bf16-$batch" --set resnet50 --mode train --precision bf16 \
            --channels-last --batch-size $batch --rounds 10
    done
    graph=(--form deployed --precision fp16 --channels-last --rounds 20)
    bench inference-graph --set resnet50 "${graph[@]}" --batch-size 32 --cuda-graph
    bench inference-no-graph --set resnet50 "${graph[@]}" --batch-size 32
    bench inference-default "${many[@]}" --precision tf32 --channels-last
    bench mobilenet-train --set mobilenet --mode train --precision tf32 \
        --channels-last --batch-size 64 --rounds 10
    bench train-compile "${many[@]}" --mode train --precision bf16 --channels-last \
        --compile
    bench inference-compile "${many[@]}" --form deployed --precision bf16 \
        --channels-last --compile
fi

"$PYTHON" - "$out" <<'EOF'
import json
import sys
from pathlib import Path

out = Path(sys.argv[1])
steps = []
print('\n| step | network | ratio | 10 to 90% | images/s | memory |\n|---|---|---|---|---|---|')
for line in (out / 'steps.tsv').read_text().splitlines():
    name, status, seconds = line.split('\t')
    step = dict(name=name, status=status, seconds=int(seconds))
    file = out / name / 'benchmark.json'
    if file.is_file():
        step['benchmark'] = json.loads(file.read_text())
        for r in step['benchmark']['results']:
            del r['profile']
            print(
                f'| {name} | {r["name"]} | {r["ratio"]:.3f} | {r["spread"][0]:.3f} to '
                f'{r["spread"][1]:.3f} | {r["images_per_second"]:.0f} | '
                f'{r["memory_ratio"]:.2f} |'
            )
    steps.append(step)
(out / 'gpu_check.json').write_text(json.dumps(dict(steps=steps), indent=1) + '\n')
failed = [step['name'] for step in steps if step['status'] != '0']
print(f'\nwritten: {out / "gpu_check.json"}; not done: {", ".join(failed) or "none"}')
sys.exit(bool(failed))
EOF
