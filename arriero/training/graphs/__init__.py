"""Rows that are bound by the launching of their kernels, captured as CUDA graphs and replayed.

bucket.py   the sizes that rows are filled up to, so that one graph serves many of them, and its static inputs
rows.py     RowGraphs: which rows are captured, when, and whether the graph computes what the model does

The capture itself, on CUDA, is arriero/cuda_graphs.py.
"""

from arriero.training.graphs.rows import RowGraphs

__all__ = ["RowGraphs"]
