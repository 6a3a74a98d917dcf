"""How fast LoRA training is: `python -m benchmarks.training`."""
