"""Side-by-side measurements of Arriero, run from the repository's root.

    __main__.py       `python -m benchmarks`: the figures that matter most in one table, what `make bench` prints
    answering/        `python -m benchmarks.answering`: how fast, how right and how steady answers are
    serving/          `python -m benchmarks.serving`: what HTTP costs and what the server withstands
    training/         `python -m benchmarks.training`: how fast LoRA training is
    downloading.py    `python -m benchmarks.downloading`: models over loopback, beside curl
    gpu/              everything on a GPU in one table, for gpu.sh
    gpu.sh            the same on a bare machine
    lib/              what they share
    vllm_engine.sh    makes an environment with vLLM and runs the tests of its engine there

No command imports another; all import lib.
"""
