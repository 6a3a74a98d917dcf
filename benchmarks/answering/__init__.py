"""How fast, how right and how steady answers are: `python -m benchmarks.answering`."""
