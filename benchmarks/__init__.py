"""Side-by-side measurements of Arriero, each runnable on its own from the repository's root.

    python -m benchmarks.answering      how fast, how right and how steady answers are
    python -m benchmarks.serving        what HTTP costs and what the server withstands
    python -m benchmarks.training       how fast LoRA training is
    python -m benchmarks.downloading    downloading.py: models over loopback
    benchmarks/gpu.sh                   gpu: everything on a GPU, in one go

lib has what they share. vllm_engine.sh makes an environment with vLLM and runs the tests of its engine there.
"""
