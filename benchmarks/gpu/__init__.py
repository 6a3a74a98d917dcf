"""Everything that is measured on a GPU, for gpu.sh: `python -m benchmarks.gpu`."""
