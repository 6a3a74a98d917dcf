"""Embedder: a model, and texts in, vectors out."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from arriero import hub, settings
from arriero.embeddings.batching import Batcher, Computer
from arriero.embeddings.recipe import Kind, Recipe, read_recipe
from arriero.embeddings.worker import Vectors, Worker
from arriero.errors import TooLongError, UsageError
from arriero.prompt import read_tokenizer


class Embedder:
    """Vectors for texts, computed in a process of its own; from any number of threads, whose texts share batches.

    with Embedder() as embedder:
        query, *documents = embedder.embed(["Who drives llamas?", "An arriero.", "A vet."])
        print(documents @ query)

    `name` is what the model is called, `window` how many tokens a text may have, special tokens and prompt included,
    `dimension` how many numbers a vector has.
    """

    def __init__(self, model: str | Path | None = None, *, start: Callable[[Path, Recipe], Computer] = Worker) -> None:
        """Begin to load a catalogue name, repository id or directory; by default the embedded embedding model.

        Raises NotFoundError or UsageError where it is no model for this. `start` makes what computes.
        """
        directory = hub.resolve(settings.EMBEDDING_MODEL if model is None else model)
        self._recipe = read_recipe(directory)
        self._tokenizer = read_tokenizer(directory)
        self._encoding = threading.Lock()  # a tokenizer keeps the truncation of its last call
        self.name = hub.name_of(directory)
        self.dimension = self._recipe.dimension
        self.window = self._recipe.window or min(self._recipe.positions, self._tokenizer.model_max_length)
        self._batcher = Batcher(functools.partial(start, directory, self._recipe))
        self._end = weakref.finalize(self, self._batcher.kill)

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def embed(self, texts: Sequence[str], *, kind: Kind | None = None, dimensions: int | None = None) -> Vectors:
        """The vectors of texts, float32, (texts, dimension). For `kind` see `encode`, for `dimensions` see `cut`."""
        self.check_dimensions(dimensions)
        return self.cut(self.submit(self.encode(texts, kind=kind)).result(), dimensions)

    def encode(self, texts: Sequence[str], *, kind: Kind | None = None, truncate: bool = False) -> list[list[int]]:
        """The token ids of texts, special tokens included; what counts as the texts' tokens.

        `kind` puts the model's own prompt for queries or for documents before them. A text that is longer than the
        window is refused when it is submitted; `truncate` cuts it to its beginning instead.
        """
        prompt = self._recipe.prompt(kind)
        whole = [prompt + text for text in texts]
        if self._recipe.lowercase:
            whole = [text.lower() for text in whole]
        if not whole:
            return []
        with self._encoding:
            encoded = self._tokenizer(
                whole, truncation=truncate, max_length=self.window if truncate else None, padding=False, verbose=False
            )
        return list(encoded["input_ids"])

    def submit(self, texts: Sequence[Sequence[int]]) -> Future[Vectors]:
        """The vectors of texts given as ids, once they are there; cancel the future to have them left alone.

        Raises what `check` does.
        """
        self.check(texts)
        if texts:
            return self._batcher.submit(texts)
        nothing: Future[Vectors] = Future()
        nothing.set_result(np.empty((0, self.dimension), np.float32))
        return nothing

    def check(self, texts: Sequence[Sequence[int]]) -> None:
        """TooLongError for what exceeds the window, UsageError for ids that the model does not have."""
        for number, ids in enumerate(texts):
            if not ids:
                raise UsageError(f"text {number} has no tokens")
            if len(ids) > self.window:
                raise TooLongError(number, len(ids), self.window)
            if not 0 <= min(ids) <= max(ids) < self._recipe.vocabulary:
                raise UsageError(
                    f"text {number} has token ids that {self.name} does not have: its ids are below "
                    f"{self._recipe.vocabulary}, and another tokenizer's mean nothing to it; send text"
                )

    def check_dimensions(self, dimensions: int | None) -> None:
        """UsageError unless vectors may be cut to that many numbers; None: not cut."""
        shorter = self._recipe.shorter
        if dimensions not in (None, self.dimension) and dimensions not in shorter:
            may = f"may be cut to {', '.join(map(str, shorter[:8]))}{' …' * (len(shorter) > 8)}" if shorter else ""
            raise UsageError(
                f"vectors of {self.name} have {self.dimension} numbers and {may or 'were not made to be cut'}, "
                f"got {dimensions}"
            )

    def cut(self, vectors: Vectors, dimensions: int | None) -> Vectors:
        """The first `dimensions` numbers of vectors, of length 1 again where they were; None: all of them.

        For models that were trained for it (Matryoshka embeddings, https://arxiv.org/abs/2205.13147); UsageError for
        others.
        """
        self.check_dimensions(dimensions)
        if dimensions in (None, self.dimension):
            return vectors
        short = vectors[:, :dimensions]
        return short / np.linalg.norm(short, axis=1, keepdims=True) if self._recipe.normalize else short

    def wait(self) -> None:
        """Return once the weights are loaded; raises what keeps them from it."""
        self._batcher.started.result()

    def close(self) -> None:
        """End the process; what is not computed yet fails."""
        self._end.detach()
        self._batcher.close()
