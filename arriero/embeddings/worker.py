"""The process that computes vectors, and its parent's side of it: one batch in, one array out.

A server's own process must stay free to answer others, and torch holds Python's lock for long. It is no module that
multiprocessing starts, for that would run the user's script once more. The process ends when its parent does.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from arriero import hub
from arriero.embeddings.recipe import Recipe
from arriero.errors import ArrieroError, EngineError, MemoryLimitError
from arriero.hardware import spin_briefly

if TYPE_CHECKING:
    from torch import Tensor

Vectors = NDArray[np.float32]
# Modules are found as here; what a library prints goes to standard error.
START = """
import os, sys
os.dup2(2, 1)
sys.path[:] = {path!r}
from arriero.embeddings.worker import main
main({channel})
"""


class Worker:
    """A process that has a model loaded. One thread uses it; any may `kill` it."""

    def __init__(self, model_dir: Path, recipe: Recipe) -> None:
        """Start it and wait until it is ready; raises what keeps it from loading the model."""
        self._channel, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START.format(path=sys.path, channel=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is for the parent to deal with
            )
        try:
            self._ask((model_dir, recipe))
        except BaseException:
            self.close()
            raise

    def compute(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """The vectors of texts given as ids, (texts, dimension); EngineError where the process died over them."""
        return self._ask(batch)

    def kill(self) -> None:
        """End the process, which has nothing to save. Waits for nobody, for finalizers."""
        self._process.kill()

    def close(self) -> None:
        """`kill`, and wait until it has ended."""
        self.kill()
        self._process.wait()
        self._channel.close()

    def _ask(self, question: object) -> Vectors:
        try:
            self._channel.send(question)
            answer: Vectors | ArrieroError = self._channel.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise EngineError(
                f"the process of the embedding model ended with exit code {code}",
                hint="standard error may say why; -9 often means that the machine ran out of memory",
            ) from error
        if isinstance(answer, ArrieroError):
            raise answer
        return answer


class Encoder:
    """The model, in float32 on the CPU."""

    def __init__(self, model_dir: Path, recipe: Recipe) -> None:
        import torch

        self._model = hub.load_weights(model_dir, headless=True, dtype=torch.float32)
        self._recipe = recipe
        self._pad = self._model.config.pad_token_id or 0

    def compute(self, batch: Sequence[Sequence[int]]) -> Vectors:
        """The vectors of a batch, which is padded on the right to its longest text."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        lengths = torch.tensor([len(ids) for ids in batch])
        ids = pad_sequence([torch.tensor(ids) for ids in batch], batch_first=True, padding_value=self._pad)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state  # (texts, tokens, dimension)
            pooled = self._pool(hidden, mask, lengths)
            if self._recipe.normalize:
                pooled = torch.nn.functional.normalize(pooled, dim=1)
        vectors: Vectors = pooled.numpy()
        return vectors

    def _pool(self, hidden: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        match self._recipe.pooling:
            case "mean":  # padding has vectors too, which the mask leaves out
                return (hidden * mask[:, :, None]).sum(1) / lengths[:, None]
            case "cls":
                return hidden[:, 0]
            case "lasttoken":
                return hidden[range(len(hidden)), lengths - 1]


def main(channel: int) -> None:
    """Serve the parent at the other end of a socket: a model and its recipe first, then batches."""
    spin_briefly()
    with Connection(channel) as parent:
        try:
            encoder = Encoder(*parent.recv())
            parent.send(np.empty((0, 0), np.float32))  # ready
            while True:
                parent.send(encoder.compute(parent.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent is gone
        except Exception as error:
            parent.send(_described(error))


def _described(error: Exception) -> ArrieroError:
    if isinstance(error, ArrieroError):
        return error
    traceback.print_exception(error)
    if isinstance(error, MemoryError) or "alloc" in str(error):
        return MemoryLimitError(f"the texts do not fit into memory: {error}")
    return EngineError(f"the embedding model failed: {error}")
