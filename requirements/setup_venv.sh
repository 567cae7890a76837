#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Makes .venv at the top of the repository: `make setup`.
#
#   requirements/setup_venv.sh [STACK]
#
#   STACK              default: requirements.txt into .venv,
#                      NAME: requirements/stacks/NAME.txt into .venv-NAME
#   PYTHON=PATH        Python to use; default: the first installed one of those
#                      named in the stack's file
#   MMCV_BASE_URL=URL  another site of mmcv wheels, as for mim
#   MAX_JOBS=N         compilers at a time for mmcv; default: all cores
#
# An environment that works and matches the requirement files is left alone. If the
# files changed, pip updates it; a broken one is rebuilt.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $*" >&2
    exit 1
}

stack=${1:-default}
venv=.venv-$stack
pins=requirements/stacks/$stack.txt
if [[ $stack == default ]]; then
    venv=.venv
    pins=requirements.txt
fi
[[ $stack != */* && -f $pins ]] || fail "STACK=$stack is not known; there are default," \
    "$(cd requirements/stacks && echo *.txt | sed 's/\.txt//g; s/ /, /g') (requirements/stacks)"
pinned() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$pins" | head -n 1; }

unset PYTHONHOME PYTHONPATH FORCE_CUDA
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 PIP_ROOT_USER_ACTION=ignore

version() { "$1" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

find_python() {
    local known candidate
    known=$(sed -n 's/^# Pythons: //p' "$pins") # the preferred one first
    # shellcheck disable=SC2086  # a list of words
    for candidate in ${PYTHON:-$(printf 'python%s ' $known) python3 python}; do
        if [[ " $known " == *" $(version "$candidate") "* ]]; then
            command -v "$candidate"
            return
        fi
    done
    fail "${PYTHON:+PYTHON=$PYTHON is }no Python ${known// / or } with venv and ensurepip" \
        "(on Debian: python${known%% *}, python${known%% *}-venv, python${known%% *}-dev);" \
        "install one, or name one: make PYTHON=/path/to/python"
}

# This finds incomplete packages, an mmcv built for another torch, a moved folder.
works() {
    local error
    error=$("$venv/bin/python" -I -W ignore -c '
import sys, cv2, matplotlib, mlxtend.data, mypy, pycocotools.mask, pytest, scipy
import torch, torchvision, mmdet.models, mmpretrain.models, mmrla, mmcv.ops
mmcv.ops.nms(torch.ones(1, 4), torch.ones(1), 0.5)
if mmrla.__file__ != sys.argv[1]: sys.exit("mmrla is not installed from this folder")
' "$PWD/mmrla/__init__.py" 2>&1 >/dev/null) || {
        echo "$venv does not work: ${error##*$'\n'}"
        return 1
    }
}

# compile_mmcv COMMAND...: without debug information it takes half the time. Where torch's
# headers need C++20, compilers get it, whatever mmcv asks for: of two -std the last counts.
compile_mmcv() {
    if grep -qs 'C++20 or later' "$venv"/lib/*/site-packages/torch/include/ATen/ATen.h; then
        printf '#!/bin/sh\nexec %s "$@" -std=c++20\n' "${CXX:-c++}" >"$venv/bin/c++20"
        chmod +x "$venv/bin/c++20"
        local -x CXX=$PWD/$venv/bin/c++20 NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -std=c++20"
    fi
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        CFLAGS="${CFLAGS:-} -g0" CXXFLAGS="${CXXFLAGS:-} -g0" "$@"
}

# Everything is requested each time: pip is quick if it is already installed.
install() {
    local pip=("$venv/bin/python" -m pip) mmcv=mmcv torch cuda site
    "${pip[@]}" install -c "$pins" -r requirements/build.txt || return
    [[ $(pinned mmcv) ]] || mmcv=onedl-mmcv
    torch=$(pinned torch)
    cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "")') || return
    cuda=${cuda:+cu${cuda//./}}
    # The page that mim asks. pip compiles mmcv where the page has no wheel or cannot be
    # reached, and keeps the wheel in a cache, which has to be one for each torch.
    site=${MMCV_BASE_URL:-https://download.openmmlab.com}
    site=$site/mmcv/dist/${cuda:-cpu}/torch${torch%.*}.0/index.html
    compile_mmcv "${pip[@]}" install --no-build-isolation -c "$pins" --find-links "$site" \
        --cache-dir "$("${pip[@]}" cache dir)/mmcv-torch-$torch" "$mmcv" || {
        echo "$mmcv is compiled where no wheel fits, which takes a C++ compiler and Python's" \
            "headers (on Debian: g++, python3-dev)"
        return 1
    }
    "${pip[@]}" install -r "$pins" -r requirements/demo.txt -r requirements/look.txt \
        -r requirements/tests.txt -r requirements/lint.txt || return
    # Over opencv-python, which needs libGL and which other packages ask for.
    "${pip[@]}" install --force-reinstall --no-deps \
        "opencv-python-headless==$(pinned opencv-python)" || return
    "${pip[@]}" install --no-deps --no-build-isolation -e .
}

make_again() {
    local python
    python=$(find_python)
    rm -rf "$venv"
    "$python" -m venv "$venv" && install && works ||
        fail "$venv is not complete; mend what is named above and run this again"
}

exec 9>"$venv.lock"
flock -n 9 || { echo "another set-up of $venv is running; waiting for it" && flock 9; }

same_python() {
    [[ -x $venv/bin/python ]] &&
        [[ -z ${PYTHON:-} || $(version "$PYTHON") == "$(version "$venv/bin/python")" ]]
}

files=("$pins" requirements/*.txt requirements/setup_venv.sh setup.py mmrla/version.py)
stamp=$(cat "${files[@]}" | sha256sum)
if ! same_python; then
    make_again
elif [[ $stamp == "$(cat "$venv/stamp" 2>/dev/null)" ]]; then
    works && exit
    make_again
elif ! install; then
    works && fail "the update of $venv failed; what is there goes on working"
    make_again
else
    works || make_again
fi
echo "$stamp" >"$venv/stamp"
echo "$venv is ready"
