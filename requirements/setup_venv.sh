#!/usr/bin/env bash
# Copyright (c) mmrla contributors. SPDX-License-Identifier: Apache-2.0
#
# Makes .venv at the top of the repository, or mends it: `make setup`.
#
#   requirements/setup_venv.sh [STACK]
#
#   STACK                     default (or nothing) for requirements.txt and .venv,
#                             NAME for requirements/stacks/NAME.txt and .venv-NAME
#   PYTHON=/path/to/python    which Python to use (default: the first that is there
#                             of those that the stack's file names)
#   MMCV_BASE_URL=URL         another site of mmcv wheels, as for mim
#   MAX_JOBS=N                compilers at a time for mmcv (default: all cores)
#
# A stamp in the environment says for which requirement files it was completed. With the
# right stamp and a healthy environment (check_venv.py) nothing is installed and
# no network is needed. Otherwise what is broken is installed again, and if that
# does not help, everything.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$ROOT"

say() { printf '%s\n' "$*"; }
fail() {
    say "error: $*" >&2
    exit 1
}
elapsed() { printf '%d min %02d s' $(($1 / 60)) $(($1 % 60)); }

STACK=${1:-default}
STACKS=$(cd requirements/stacks && printf '%s\n' default *.txt | sed 's/\.txt$//')
grep -qxF -e "$STACK" <<<"$STACKS" ||
    fail "STACK=$STACK is not known; there are ${STACKS//$'\n'/, } (requirements/stacks)"
VENV=.venv
PINS=requirements.txt
if [[ $STACK != default ]]; then
    VENV=.venv-$STACK
    PINS=requirements/stacks/$STACK.txt
fi
VPY=$VENV/bin/python
PIP=("$VPY" -m pip)
STAMP=$VENV/.mmrla-stamp
LOG=$VENV/setup.log
PLAN=$VENV/repair-plan.txt
REQUIREMENTS=(
    "$PINS"
    requirements/build.txt
    requirements/demo.txt
    requirements/lint.txt
    requirements/look.txt
    requirements/tests.txt
)
# The preferred one first, as the stack's file has them
read -r -a PYTHONS <<<"$(sed -n 's/^# Pythons: //p' "$PINS")"
ANY_OF="${PYTHONS[*]}"
ANY_OF=${ANY_OF// / or }
DEBIAN=python${PYTHONS[0]}
MMCV=$(sed -n 's/^\(\(onedl-\)\?mmcv==[^ ;]*\).*/\1/p' "$PINS")
MMCV_NAME=${MMCV%%==*}
MMCV_VERSION=${MMCV##*==}
MMCV_WHEEL=${MMCV_NAME//-/_}-$MMCV_VERSION
# pip's cache does not tell for which torch it holds a wheel.
MMCV_PIP=("${PIP[@]}")
if [[ $STACK != default ]]; then
    MMCV_PIP+=(--cache-dir "${PIP_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/pip}/mmrla-$STACK")
fi
# Installed over opencv-python, of the same version.
HEADLESS=opencv-python-headless==$(sed -n 's/^opencv-python==\([^ ;]*\).*/\1/p' "$PINS")

unset PYTHONHOME PYTHONPATH FORCE_CUDA
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0
export PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1

# step TEXT COMMAND...: runs a command into the log, with a sign of life each
# minute (for a compilation the files done) and the log's end if it fails.
step() {
    local text=$1 start=$SECONDS beat=60 pid status=0 files
    shift
    say "  $text"
    printf '\n== %s\n' "$text" >>"$LOG"
    local from
    from=$(wc -l <"$LOG")
    # A session of its own, so that all of it can be stopped.
    setsid "$@" >>"$LOG" 2>&1 </dev/null &
    pid=$!
    trap 'kill -TERM -- "-$pid" 2>/dev/null; fail "stopped; run it again to go on"' INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - start >= beat)); then
            files=$(tail -n "+$from" "$LOG" | grep -o '^ *\[[0-9]*/[0-9]*\]' | tail -n 1 || true)
            say "    $(elapsed $beat)${files:+, compiled ${files// /}}"
            ((beat += 60))
        fi
    done
    wait "$pid" || status=$?
    trap - INT TERM HUP
    if ((status)); then
        say "  failed after $(elapsed $((SECONDS - start))); the end of $ROOT/$LOG:" >&2
        tail -n 15 "$LOG" | sed 's/^/    /' >&2
    fi
    return "$status"
}

# What makes an environment complete: the requirements, this package's setup,
# the Python, and the folder (scripts in .venv/bin name it).
fingerprint() {
    {
        cat "${REQUIREMENTS[@]}" requirements/setup_venv.sh setup.py mmrla/version.py
        "$VPY" -c 'import sys; print(sys.version, sys.prefix)'
    } | sha256sum | cut -d ' ' -f 1
}

supported() {
    "$1" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' \
        "${PYTHONS[@]}" 2>/dev/null
}

# A Python that runs, of the version asked for, made where it lies now.
usable() {
    local wanted
    supported "$VPY" || return 1
    head -n 2 "$VENV/bin/pip" 2>/dev/null | grep -qF "$ROOT/$VENV/bin/" || return 1
    if [[ -n ${PYTHON:-} ]]; then
        wanted=$("$PYTHON" -c 'import sys; print(sys.version_info[:2])') || return 1
        "$VPY" -c "import sys; sys.exit(sys.version_info[:2] != $wanted)"
    fi
}

check() { "$VPY" requirements/check_venv.py "$PLAN" "${REQUIREMENTS[@]}" 2>>"$LOG"; }

# The first Python that can make an environment, rather one that has the headers
# that a compilation of mmcv needs.
find_python() {
    local candidate found header fallback='' probe='
import os, sys, sysconfig
try:
    import ensurepip, venv
except ImportError:
    sys.exit(1)
print(getattr(sys, "_base_executable", sys.executable))
print(os.path.join(sysconfig.get_path("include"), "Python.h"))'
    if [[ -n ${PYTHON:-} ]]; then
        { supported "$PYTHON" && found=$("$PYTHON" -c "$probe" 2>/dev/null); } ||
            fail "PYTHON=$PYTHON is not a Python $ANY_OF with venv and ensurepip"
        head -n 1 <<<"$found"
        return
    fi
    for candidate in "${PYTHONS[@]/#/python}" python3 python; do
        supported "$candidate" || continue
        found=$("$candidate" -c "$probe" 2>/dev/null) || continue
        header=$(tail -n 1 <<<"$found")
        found=$(head -n 1 <<<"$found")
        if [[ -e $header ]]; then
            printf '%s\n' "$found"
            return
        fi
        fallback=${fallback:-$found}
    done
    [[ -n $fallback ]] || fail "no Python $ANY_OF with venv and ensurepip (on" \
        "Debian the packages $DEBIAN, $DEBIAN-venv, $DEBIAN-dev); install one, or name" \
        "one: make PYTHON=/path/to/python"
    printf '%s\n' "$fallback"
}

# What is there is only thrown away where it can be had again. torchvision is small
# and comes from where torch comes from.
registry_answers() {
    local probe status=0
    probe=$(mktemp -d)
    "$1" -m venv "$probe/venv" && "$probe/venv/bin/python" -m pip download --no-deps \
        --no-cache-dir --retries 1 --timeout 20 -d "$probe" -c "$PINS" \
        torchvision || status=$?
    rm -rf "$probe"
    return "$status"
}

create() {
    local python
    python=$(find_python)
    if [[ -e $VENV ]] && ! registry_answers "$python" >>"$LOG" 2>&1; then
        fail "$ROOT/$VENV has to be made anew, but the package registry does not answer" \
            "(see $ROOT/$LOG); nothing is deleted"
    fi
    rm -rf "$VENV"
    say "Setting up $VENV with $("$python" --version): about 3 GB of downloads"
    "$python" -m venv "$VENV" || fail "$python cannot make a virtual environment"
}

# with_cxx20 COMMAND...: where torch's headers need C++20, compilers get it, whatever
# mmcv asks for: of two -std the last one counts.
with_cxx20() {
    local folder status=0
    if ! grep -qs 'C++20 or later' "$VENV"/lib/*/site-packages/torch/include/ATen/ATen.h; then
        "$@"
        return
    fi
    folder=$(mktemp -d)
    printf '#!/bin/sh\nexec %s "$@" -std=c++20\n' "${CXX:-c++}" >"$folder/c++"
    chmod +x "$folder/c++"
    CXX=$folder/c++ NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -std=c++20" "$@" || status=$?
    rm -r "$folder"
    return "$status"
}

# install_mmcv [PIP OPTIONS]: a wheel of the mmcv project, of pip's cache, or the
# compiler's.
install_mmcv() {
    local page='' header
    if [[ $MMCV_NAME == mmcv ]]; then
        page=$("$VPY" requirements/find_mmcv_wheel.py "$MMCV_VERSION" 2>>"$LOG") || page=
    fi
    if [[ -n $page ]] && step "mmcv $MMCV_VERSION: the mmcv project's wheel" "${PIP[@]}" \
        install "$@" -c "$PINS" --only-binary mmcv --find-links "$page" "$MMCV"; then
        return
    fi
    if [[ $("${MMCV_PIP[@]}" cache list "$MMCV_WHEEL" 2>/dev/null) == *"-$MMCV_VERSION-"* ]]; then
        say "  mmcv's wheel site is out of reach; pip's cache has the wheel built before"
    else
        command -v "${CXX:-c++}" >/dev/null || fail "mmcv has to be compiled and there is" \
            "no C++ compiler (${CXX:-c++}); install one (on Debian the package g++)"
        header=$("$VPY" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
        [[ -e $header ]] || fail "mmcv has to be compiled and $header is missing; install" \
            "Python's headers (on Debian the package $DEBIAN-dev)"
        say "  mmcv's wheel site is out of reach, so it is compiled: once, about 14 minutes" \
            "on 2 cores"
    fi
    MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} with_cxx20 \
        step "$MMCV_NAME $MMCV_VERSION" "${MMCV_PIP[@]}" install -v "$@" \
        --no-build-isolation -c "$PINS" "$MMCV"
}

# All is asked for each time: pip is quick, and needs no network, where it is there.
install() {
    step "pip, torch, torchvision" "${PIP[@]}" install -c "$PINS" \
        -r requirements/build.txt || return
    if [[ $("${PIP[@]}" show "$MMCV_NAME" 2>/dev/null) != *"Version: $MMCV_VERSION"$'\n'* ]]; then
        install_mmcv || return
    fi
    step "mmdet, mmpretrain and the tools of demo, tests and lint" "${PIP[@]}" install \
        -r "$PINS" -r requirements/demo.txt -r requirements/tests.txt \
        -r requirements/lint.txt || return
    step "headless OpenCV" "${PIP[@]}" install "$HEADLESS" || return
    # After it: grad-cam asks for headless OpenCV, and would have it beneath the other.
    step "figures" "${PIP[@]}" install -c "$PINS" -r requirements/look.txt || return
    step "mmrla itself" "${PIP[@]}" install --no-deps --no-build-isolation -e .
}

mend() {
    local action what
    # Left by an interrupted pip.
    find "$VENV"/lib/python3*/site-packages -maxdepth 1 -name '~*' -exec rm -rf {} +
    while read -r action what <&3; do
        case $action:$what in
        rebuild:*) "${MMCV_PIP[@]}" cache remove "$MMCV_WHEEL" >>"$LOG" 2>&1 || true ;&
        reinstall:"$MMCV_NAME"==*) install_mmcv --force-reinstall --no-deps || return ;;
        reinstall:mmrla==*) ;; # install does it
        reinstall:*) step "$what again" "${PIP[@]}" install --force-reinstall --no-deps \
            "$what" || return ;;
        esac
    done 3<"$PLAN"
    install
}

finish() {
    fingerprint >"$STAMP"
    say "$VENV is ready after $(elapsed $SECONDS)"
}

exec 9>"$VENV.lock"
if ! flock -n 9; then
    say "Another set-up of $ROOT/$VENV is running; waiting for it"
    flock 9
fi

if usable; then
    if [[ -f $STAMP && $(cat "$STAMP") == "$(fingerprint)" ]]; then
        if check; then
            exit 0
        fi
        say "$VENV is broken (see above); installing what is missing"
    else
        say "$VENV is incomplete, or older than the requirements; completing it"
        check || true
    fi
    rm -f "$STAMP"
    if mend && check; then
        finish
        exit 0
    fi
    say "That did not help; making $VENV anew"
fi

create
install || fail "the set-up is not complete; mend what is named above and run it again"
# Packages that were cut off by a full disk and the like, or a headless OpenCV that
# another package asked for, so that opencv-python came after it.
check || { mend && check; } || fail "$ROOT/$VENV is not healthy (see above); run it again"
finish
