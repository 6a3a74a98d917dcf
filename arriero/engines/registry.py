"""The engines there are: one entry for each, with everything that is asked about an engine before it is loaded.

An engine's own module is imported when the engine is, so that a list of engines costs nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from arriero import hub
from arriero.engines.adapters import AdapterLimits
from arriero.errors import EngineError, UsageError

if TYPE_CHECKING:
    from arriero.constraint import Constraint
    from arriero.engines.base import Engine
    from arriero.messages import Sampling

Precision = Literal["auto", "float32", "bfloat16", "int8", "int4"]
CudaGraphs = Literal["auto", "on", "off"]
Feature = Literal[
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "constraint",
    "constraint_after_reasoning",
    "prompt_logprobs",
]


class EngineKeywords(TypedDict, total=False):
    """`EngineOptions` as keywords."""

    precision: Precision
    deterministic: bool
    cuda_graphs: CudaGraphs
    process: bool
    room_for: Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine is loaded.

    `precision` is that of the weights; what "auto" means is the engine's own choice, unless the first of `room_for` was
    trained over a base in 4 bits (see `Entry.nf4`). `deterministic` asks for answers that do not depend on what else is
    computed. `cuda_graphs` is whether decode steps are captured: where they can be, or else it is an error, or never.
    With `process` an engine that can do without one computes in a process of its own, as the others do. `room_for` are
    adapters that will be loaded into it. `needs` are features that requests will ask for: an engine that turns out to
    lack one is an UnsupportedError before the weights are loaded. `refused` is what the engines of those names would
    refuse of them.
    """

    precision: Precision = "auto"
    deterministic: bool = False
    cuda_graphs: CudaGraphs = "auto"
    process: bool = False
    room_for: Sequence[Path] = ()
    needs: tuple[Feature, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


DEFAULT_OPTIONS = EngineOptions()
ConstraintCheck: TypeAlias = "Callable[[Constraint, Sampling, int | None], None]"  # the last: `logprobs`


def by_llguidance(constraint: Constraint, _sampling: Sampling, _logprobs: int | None) -> None:
    """Raise UsageError for a constraint that llguidance cannot do."""
    from arriero.engines.llguidance import check

    check(constraint)


def by_openvino(constraint: Constraint, sampling: Sampling, logprobs: int | None) -> None:
    """Raise UsageError for a constraint that the OpenVINO engine cannot guarantee."""
    from arriero.engines.openvino.engine import compiled

    compiled(constraint, sampling, logprobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An engine as it is known before it is loaded.

    `home` is "module:class" of what implements `Engine`, made with (model_dir, stop_token_ids, EngineOptions), and
    `process_home` that of the same in a process of its own, None where `home` computes in one anyhow.
    `packages` have to be installed, and `install` says how. `device` is where "auto" prefers it, None nowhere, because
    of its `merit`. `model_lacks` tells what a model needs that the engine would get wrong. `adapter_limits` is None
    where every adapter of PEFT's is done. `precisions` are those of the weights, beside "auto"; with `nf4` int4 is what
    training's load_in_4bit computes with, and "auto" means it for an adapter trained so. `precision_lacks` tells what
    is missing for one of them, or for weights as they are stored. `deterministic` says whether answers can be made
    independent of others, `cuda_graphs` whether one may choose that decode steps are captured. `undone` are the
    optional features that it lacks with every model; `check_constraint` raises UsageError for a constraint that it
    cannot guarantee. `otherwise` is what to do about what it lacks.
    """

    name: str
    home: str
    packages: tuple[str, ...]
    install: str
    process_home: str | None = None
    device: Literal["cuda", "cpu"] | None = None
    merit: str = ""
    model_lacks: Callable[[Path], str | None] = lambda _: None
    adapter_limits: AdapterLimits | None = None
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    nf4: bool = False
    precision_lacks: Callable[[Path | None, Precision], str | None] = lambda _model_dir, _precision: None
    deterministic: bool = True
    cuda_graphs: bool = False
    undone: tuple[Feature, ...] = ()
    check_constraint: ConstraintCheck = by_llguidance
    otherwise: str = "use --engine transformers"

    @property
    def missing(self) -> str:
        """The packages that are not installed, as a clause; empty where all are."""
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed" if absent else ""

    def adapter_lacks(self, adapter_dir: Path) -> str | None:
        """What an adapter needs that the engine would get wrong; None when there is nothing."""
        return self.adapter_limits.lacks(adapter_dir) if self.adapter_limits is not None else None

    def check_adapter(self, adapter_dir: Path) -> None:
        """Raise EngineError where an adapter needs what the engine would get wrong."""
        if (lacking := self.adapter_lacks(adapter_dir)) is not None:
            raise EngineError(f"the {self.name} engine does not do {lacking}", hint=self.otherwise)

    def lacks(self, model_dir: Path | None, options: EngineOptions) -> str | None:
        """The first thing that a model, its adapters or the options need and this engine lacks; None: nothing."""
        reasons = [self.model_lacks(model_dir) if model_dir is not None else None]
        reasons.append(self.precision_lacks(model_dir, options.precision))
        reasons += [self.adapter_lacks(adapter) for adapter in options.room_for]
        if options.deterministic and not self.deterministic:
            reasons.append("answers that are the same beside others (--deterministic)")
        if options.cuda_graphs != "auto" and not self.cuda_graphs:
            reasons.append(f"decode steps captured or not as one likes (--cuda-graphs {options.cuda_graphs})")
        reasons.append(options.refused.get(self.name))
        return next((reason for reason in reasons if reason is not None), None)

    def load(self, model_dir: Path, stop_token_ids: Sequence[int], options: EngineOptions) -> Engine:
        """Import the engine and load a model into it."""
        home = self.process_home if options.process and self.process_home is not None else self.home
        module, _, name = home.partition(":")
        engine: Engine = getattr(importlib.import_module(module), name)(model_dir, stop_token_ids, options)
        return engine


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # how many, as models call it


def _has_experts(config: Mapping[str, Any]) -> bool:
    return any(isinstance(config.get(name), int) and config[name] > 1 for name in EXPERTS)


def openvino_lacks(model_dir: Path) -> str | None:
    """What a model needs that the OpenVINO engine would get wrong, None when there is nothing.

    The exported attention mask is causal and nothing else, so a sliding window smaller than the context is refused; so
    is longrope, since all sequences of a step would be encoded as the longest one.
    """
    config = hub.language_config(model_dir)
    sliding = config.get("sliding_window") if config.get("use_sliding_window") is not False else None
    if isinstance(sliding, int) and sliding < hub.window(model_dir):
        return f"its attention slides over a window of {sliding} tokens"
    original = hub.original_context(config)
    if original < sys.maxsize and original < hub.window(model_dir):
        return f"its positions are encoded otherwise beyond {original} tokens"
    if _has_experts(config):
        return "it is a mixture of experts, whose routing cannot be exported"
    if (method := hub.quantisation(model_dir)) is not None:
        return f"its weights are stored quantised ({method})"
    kinds = {kind for kind in config.get("layer_types") or () if kind != "full_attention"}
    return f"it has layers of the kind {', '.join(sorted(kinds))}" if kinds else None


def vllm_precision_lacks(model_dir: Path | None, precision: Precision) -> str | None:
    """What vLLM misses for weights in 4 bits, None when there is nothing.

    It quantises experts too, which bitsandbytes does not where a model is trained.
    """
    if precision != "int4" and (model_dir is None or hub.quantisation(model_dir) != "bitsandbytes"):
        return None
    if any(importlib.util.find_spec(package) is None for package in ("vllm_bnb_plugin", "bitsandbytes")):
        return 'weights of bitsandbytes, for which vllm-bnb-plugin is not installed: pip install "arriero[vllm]"'
    if model_dir is not None and precision == "int4" and _has_experts(hub.language_config(model_dir)):
        return "a mixture of experts in 4 bits"
    return None


ENTRIES = (
    Entry(
        name="transformers",
        home="arriero.engines.transformers:TransformersEngine",
        process_home="arriero.engines.transformers.process:TransformersProcess",
        packages=("torch", "transformers"),
        install="pip install arriero",
        adapter_limits=AdapterLimits(("layer_replication", "alora_invocation_tokens"), kinds=None),
        precisions=("float32", "bfloat16", "int4"),
        nf4=True,
        cuda_graphs=True,
        otherwise="merge the adapter into the model, or train it without",
    ),
    Entry(
        name="openvino",
        home="arriero.engines.openvino:OpenVINOEngine",
        packages=("openvino", "openvino_genai", "openvino_tokenizers", "nncf"),
        install='pip install "arriero[openvino]"',
        device="cpu",
        merit="answers several times faster on a CPU",
        model_lacks=openvino_lacks,
        check_constraint=by_openvino,
        precisions=("float32", "bfloat16", "int8", "int4"),
        adapter_limits=AdapterLimits(
            (
                *("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias", "alpha_pattern"),
                "rank_pattern",
            )
        ),
    ),
    Entry(
        name="vllm",
        home="arriero.engines.vllm.engine:VLLMEngine",
        packages=("vllm",),
        install='pip install "arriero[vllm]"',
        device="cuda",
        merit="answers many requests at once",
        adapter_limits=AdapterLimits(
            (
                *("use_dora", "modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices"),
                *("alora_invocation_tokens", "use_qalora", "use_bdlora"),
            ),
            max_rank=512,
        ),
        precisions=("float32", "bfloat16", "int4"),
        nf4=True,
        precision_lacks=vllm_precision_lacks,
        deterministic=False,
        undone=("constraint_after_reasoning",),
    ),
)
NAMES = ("auto", *(entry.name for entry in ENTRIES))
if TYPE_CHECKING:
    EngineName: TypeAlias = str
else:  # the command line and pydantic list the names and refuse others
    EngineName: Any = Literal[NAMES]


def find(name: str) -> Entry:
    """The engine of that name; UsageError with all names where there is none."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise UsageError(f"no engine is called {name!r}; expected one of {', '.join(NAMES)}")
