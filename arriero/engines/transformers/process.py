"""TransformersProcess: the transformers engine in a process of its own, see worker.py. Nothing here imports torch.

Its step and those who read the answers do not share an interpreter's lock then, and where it dies, out of memory for
one, the others live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

from arriero.constraint import Constraint
from arriero.engines.adapters import stamps
from arriero.engines.base import Adapter, Feature, check_ids, check_own, require
from arriero.engines.generation import Generation
from arriero.engines.llguidance import check
from arriero.engines.process.crossing import fields_of
from arriero.engines.process.engine import ProcessEngine
from arriero.engines.registry import EngineOptions
from arriero.messages import Sampling


class TransformersProcess(ProcessEngine):
    """Implements `engines.base.Engine` as TransformersEngine does, and answers as it does."""

    name = "transformers"
    worker = "arriero.engines.transformers.worker"
    called = "the transformers engine's process"
    features: frozenset[Feature] = frozenset(get_args(Feature))

    def __init__(self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions) -> None:
        super().__init__()
        self._model = {
            "model_dir": str(model_dir),
            "stamp": stamps(model_dir),
            "stop_token_ids": sorted(stop_token_ids),
            "options": asdict(replace(options, process=False, room_for=())),
        }
        try:
            about = self._load(now=True)
        except BaseException:
            self.close()
            raise
        self.description: str = about["description"]
        self._vocabulary: int = about["vocabulary"]
        self.in_4bit: bool = about["in_4bit"]

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        max_new_tokens: int,
        adapter: Adapter | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
    ) -> Generation:
        """See `Engine.submit`. Raises UsageError for an id that the model lacks and a schema that cannot be done."""
        require(self, sampling, constraint, logprobs, prompt_logprobs=prompt_logprobs)
        check_own(adapter, self._adapters)
        grammar = check(constraint) if constraint is not None else None
        check_ids(prompt_ids, sampling, self._vocabulary)
        return self._put(
            adapter,
            ids=list(prompt_ids),
            sampling=fields_of(sampling),
            limit=max_new_tokens,
            grammar=grammar,
            alternatives=logprobs,
            scores=prompt_logprobs,
        )

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`. Waits until the adapter is loaded; requests wait meanwhile."""
        adapter, about = self._open(directory, (str(directory.resolve()), stamps(directory)))
        self._vocabulary = max(self._vocabulary, about["vocabulary"])
        return adapter
