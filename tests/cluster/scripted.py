"""An engine for replicas: what it answers can be told from the prompt, at any pace, and so can what is lost of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from arriero.engines.base import Adapter, Feature, require
from arriero.engines.generation import Generation
from arriero.errors import EngineError, EngineLostError, UsageError
from arriero.messages import Sampling, TokenLogprob

STOP = 2
DIE, FAIL, CRASH = 3, 4, 5  # a prompt that begins so kills the engine in the process it names, fails, kills any process


def following(ids: Sequence[int], shift: int = 0) -> int:
    """The id after these: it depends on the last one and on how many there are."""
    return 10 + (ids[-1] * 31 + len(ids) * 7 + shift) % 90


def expected(prompt: Sequence[int], count: int, shift: int = 0) -> list[int]:
    """The first `count` ids after a prompt."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(following(ids, shift))
    return ids[len(prompt) :]


class PacedEngine:
    """Gives every answer one id for each beat of `pace` seconds, all of them in one thread.

    The n-th id has the log-probability -n from where this engine began. An adapter's `shift` is in its configuration.
    """

    name = "paced"
    description = "paced, no model"
    features = frozenset(get_args(Feature))
    in_4bit = False

    def __init__(self, pace: float) -> None:
        self.alive = True
        self._pace = pace
        self._active: list[tuple[Generation, list[int], int, int, int]] = []
        self._lock = threading.Lock()
        self._new = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, *, max_new_tokens: int, **options) -> Generation:
        require(self, sampling, options.get("constraint"), options.get("logprobs"))
        if prompt_ids[0] == FAIL:
            raise UsageError("this prompt is refused", hint="another one")
        if prompt_ids[0] == CRASH:
            os._exit(1)
        if prompt_ids[0] == DIE and prompt_ids[1] == os.getpid():
            self.alive = False
        if not self.alive:
            raise EngineLostError("the engine has died")
        generation = Generation(len(prompt_ids))
        generation.wanted = options.get("logprobs")
        adapter = options.get("adapter")
        entry = (generation, list(prompt_ids), len(prompt_ids), max_new_tokens, adapter.shift if adapter else 0)
        with self._lock:
            self._active.append(entry)
        self._new.set()
        return generation

    def load_adapter(self, directory: Path) -> Adapter:
        adapter = Adapter(directory)
        adapter.shift = json.loads((directory / "adapter_config.json").read_text())["shift"]
        if adapter.shift < 0:
            raise EngineError("an adapter shifts forwards")
        return adapter

    def close(self) -> None:
        self.alive = False

    def _work(self) -> None:
        while True:
            with self._lock:
                self._active = [entry for entry in self._active if not self._step(*entry)]
                idle = not self._active
                if idle:
                    self._new.clear()
            self._new.wait(None if idle else self._pace) if idle else threading.Event().wait(self._pace)

    def _step(self, generation: Generation, ids: list[int], start: int, limit: int, shift: int) -> bool:
        """Give one more id; whether that was all."""
        if generation.cancelled:
            generation.finish("cancelled")
        elif len(ids) - start >= limit:
            generation.finish("length")
        else:
            ids.append(following(ids, shift))
            count = len(ids) - start
            generation.push([ids[-1]], [TokenLogprob(ids[-1], -float(count))] if generation.wanted is not None else ())
            if count >= limit:
                generation.finish("length")
        return generation.finish_reason is not None
