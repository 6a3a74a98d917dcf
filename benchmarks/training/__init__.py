"""How fast LoRA training is, from the tutorial's recipe to `arriero train`.

__main__.py           the command: variants on the same steps, and the quality of both recipes
variants.py           from the tutorial's recipe to ours, a step at a time
tutorial_recipe.py    the tutorial's script, with nothing of ours
jobs.py               what the variants are given: rows, their order, their tokens
child.py              one variant in a process of its own
meter.py              what is measured of optimizer steps
figures.py            what the raw results amount to
sheets.py             the figures as tables
busy.py               `python -m benchmarks.training.busy`: training beside other programs
sharing.py            `python -m benchmarks.training.sharing`: tokens computed with a tree of prefixes
rendering.py          `python -m benchmarks.training.rendering`: reading and rendering data
cluster.py            `python -m benchmarks.training.cluster`: workers that are killed, memory with and without sharding
"""
