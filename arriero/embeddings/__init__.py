"""Texts -> vectors that are near each other where the texts mean alike, by a sentence-transformers model.

    embedder.py   Embedder: what everybody calls
    recipe.py     a model's own description of pooling, normalisation, prompts and window
    batching.py   texts of concurrent requests -> batches, in turn
    worker.py     the process that computes

Other rooms get float32 vectors that equal those of the library sentence-transformers, which is not needed.
"""

from __future__ import annotations

from arriero.embeddings.embedder import Embedder
from arriero.embeddings.recipe import Kind
from arriero.embeddings.worker import Vectors

__all__ = ["Embedder", "Kind", "Vectors"]
