"""TransformersEngine: loads a model, takes requests and commands from any thread, owns the one that works.

It computes in this process; process.py is the same engine with a process of its own.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from transformers import GenerationConfig

from arriero import hub
from arriero.constraint import Constraint
from arriero.engines.base import Adapter, Feature, Precision, check_ids, check_own, require
from arriero.engines.generation import EngineGeneration, Generation
from arriero.engines.llguidance import Grammars, check
from arriero.engines.registry import DEFAULT_OPTIONS, EngineOptions, find
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import decode_graphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.engines.transformers.thread import EngineThread
from arriero.errors import UnsupportedError
from arriero.hardware import cores, fast_bfloat16, gpus
from arriero.messages import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


class LoadedAdapter(Adapter):
    """An adapter under the name that PEFT knows it by."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(directory)
        self.name = name


class TransformersEngine:
    """Implements `engines.base.Engine`, with every feature.

    Its thread does all that has to do with the model. A request holds its adapter's handle, so an adapter that nobody
    holds is in no batch any more.
    """

    name = "transformers"
    features: frozenset[Feature] = frozenset(get_args(Feature))

    def __init__(
        self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions = DEFAULT_OPTIONS
    ) -> None:
        loaded = load(model_dir, stop_token_ids, options)
        self._vocabulary, self.description = loaded.adapters.vocabulary, loaded.description
        self.in_4bit = loaded.in_4bit
        self._handles: weakref.WeakSet[Adapter] = weakref.WeakSet()
        self._thread = EngineThread(loaded.scheduler, loaded.adapters)
        weakref.finalize(self, self._thread.end).atexit = False

    @property
    def alive(self) -> bool:
        """See `Engine.alive`."""
        return not self._thread.closed and self._thread.is_alive()

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
        check_own(adapter, self._handles)
        grammar = check(constraint) if constraint is not None else None
        check_ids(prompt_ids, sampling, self._vocabulary)
        request = Request(EngineGeneration(len(prompt_ids), self), list(prompt_ids), sampling, max_new_tokens)
        request.grammar, request.alternatives, request.holds = grammar, logprobs, adapter
        request.scores = prompt_logprobs
        request.adapter = adapter.name if isinstance(adapter, LoadedAdapter) else None
        thread = self._thread
        thread.put(lambda: thread.scheduler.add(request))
        return request.generation

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine.load_adapter`. Waits until the adapter is loaded; requests wait meanwhile."""
        thread = self._thread
        name, self._vocabulary = thread.ask(lambda: (thread.adapters.load(directory), thread.adapters.vocabulary))
        adapter = LoadedAdapter(directory, name)
        weakref.finalize(adapter, thread.free, adapter.name).atexit = False
        self._handles.add(adapter)
        return adapter

    def close(self) -> None:
        """See `Engine.close`."""
        self._thread.close()


class Loaded(NamedTuple):
    """A model with what computes on it, for one thread."""

    scheduler: Scheduler
    adapters: Adapters
    description: str
    in_4bit: bool


def load(model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions) -> Loaded:
    """Load a model. Raises UnsupportedError for a precision that the engine does not do, ArrieroError as hub does."""
    model = _load(model_dir, options.precision)
    forward = Forward(model)
    if options.deterministic:
        forward.shared_length = 0  # rounding depends on a batch's shape, so there are no batches
    grammars, graphs = Grammars(model_dir, stop_token_ids), decode_graphs(forward, options.cuda_graphs)
    reason = "an adapter has brought more embeddings, which lie in another place"
    adapters = Adapters(model, partial(graphs.release, reason)) if graphs is not None else Adapters(model)
    scheduler = Scheduler(forward, adapters, grammars, stop_token_ids, graphs)
    in_4bit = options.precision == "int4" and hub.quantisation(model_dir) is None
    return Loaded(scheduler, adapters, _description(model, forward), in_4bit)


def _load(model_dir: Path, precision: Precision) -> PreTrainedModel:
    """The model, on the GPUs where there are any. Weights in 4 bits are computed with as training does."""
    if precision not in ("auto", *find(TransformersEngine.name).precisions):
        raise UnsupportedError(f"precision {precision}", TransformersEngine.name, hint="use --engine openvino")
    in_4bit = precision == "int4"
    if in_4bit:
        precision = "bfloat16" if fast_bfloat16() else "float32"
    dtype = _dtype(model_dir) if precision == "auto" else getattr(torch, precision)
    torch.set_num_threads(min(torch.get_num_threads(), cores()))  # torch does not know the quota of a container
    model: PreTrainedModel = hub.load_weights(
        model_dir, in_4bit=in_4bit, dtype=dtype, device_map=hub.placed(model_dir, dtype, in_4bit=in_4bit)
    )
    hub.four_bits.quicken(model)
    # the model's own sampling defaults arrive in `Sampling`, and only there
    model.generation_config = GenerationConfig()
    return model.eval()


def _dtype(model_dir: Path) -> torch.dtype | Literal["auto"]:
    """The checkpoint's own type where that is fast; a CPU takes ten times longer in float16 than in bfloat16."""
    config = hub.read_json(model_dir / "config.json")
    half = "float16" in (config.get("dtype"), config.get("torch_dtype"))
    if half and gpus():
        return "auto"
    if not fast_bfloat16():
        return torch.float32
    return torch.bfloat16 if half else "auto"


def _description(model: PreTrainedModel, forward: Forward) -> str:
    parts = ["transformers", model.device.type, str(model.dtype).removeprefix("torch.")]
    if not all(weight.is_floating_point() for weight in model.parameters()):
        parts[-1] += " over quantised weights"
    shared = min(forward.shared_length, forward.original_context)
    if shared < getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize):
        over = f" over {shared} tokens" if shared else ""
        parts.append(f"requests{over} are not batched")
        encoded = "the positions of longer ones are all encoded otherwise"
        cached = "the model's KV cache does not keep every token"
        log.info("%s: %s", parts[-1], cached if shared == forward.shared_length else encoded)
    return ", ".join(parts)
