#!/usr/bin/env bash
# What a GPU does with Arriero, in two goes of at most eight minutes, on a bare machine: CUDA PyTorch, and no network.
#
#     OUT=DIRECTORY benchmarks/gpu.sh [--wheels DIRECTORY] [--tiny] [--parts NAME …] [--seconds N]
#
# Everything goes into OUT (default: runs/gpu). table.md has a line for every part, also for one that failed or ran out
# of time; benchmarks/gpu/__main__.py lists the parts, and which to run in which go. What the machine lacks comes as
# wheels in a directory (benchmarks/gpu/wheels.txt says which and how); they are unpacked beside its own packages, and
# removed again. Models have random weights, so no figure says how good an answer is. --tiny runs it all on a CPU. The
# models take 19 GB of the temporary directory, full rows 72 GB of the GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
export OUT=${OUT:-$here/runs/gpu}
mkdir -p "$OUT"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "${1:-}" = --wheels ]; then
    [ $# -ge 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    "${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --no-compile --target "$work/wheels" "$2"/*.whl
    shift 2
fi
# cuDNN's attention plans on the host for every new shape; Arriero goes without, so must what it is measured beside
export TORCH_CUDNN_SDPA_DEPRIORITIZED=1
export PYTHONPATH="$work/wheels:$here${PYTHONPATH:+:$PYTHONPATH}" ARRIERO_HOME="$work/home" HF_HUB_OFFLINE=1
"${PYTHON:-python3}" -m benchmarks.gpu --work "$work" "$@"
