"""Options that several verbs share, declared once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from arriero import hub
from arriero.engines.registry import CudaGraphs, EngineName, Precision
from arriero.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from arriero.cluster.serving.scale import Deployment

Texts = Annotated[tuple[str, ...], Parameter(show_default=False)]
Data = Annotated[
    str,
    Parameter(
        help="A file (JSON, JSON Lines, CSV, Parquet, Excel, gz, zip; its content decides), a directory of these, or "
        "a data set's name: owner/name[@revision] on Hugging Face, modelscope:owner/name, the address of a file "
        "(#sha256=… pins its content), or huanhuan, that of the self-llm tutorial."
    ),
]
Json = Annotated[bool, Parameter(name="--json", help="Print one JSON document on standard output.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How conversations become prompts, where it is not as an adapter was trained or the chat template has it.

    Parameters
    ----------
    template
        NAME=VALUE, a variable of the chat template: enable_thinking=false. May be given several times.
    fold_system
        Put the system prompt before the first question, for templates that refuse one.
    chat_template
        For a model that has none: chatml, llama3, or a file with a Jinja template.

    """

    template: Texts = ()
    fold_system: Annotated[bool, Parameter(negative="")] = False
    chat_template: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Base:
    """What is trained.

    Parameters
    ----------
    model
        Catalogue name, repository id or directory. Default: the embedded model.
    system
        System prompt to train under; served with the adapter from then on. Default: that of the adapter merged into
        the model, or the chat template's own.

    """

    model: str | None = None
    system: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Where it is trained.

    Parameters
    ----------
    ray
        A Ray cluster: HOST:PORT, auto for the one this machine belongs to, or local for workers on this machine.
    workers
        How many train together on it, each with a GPU where there are any. Default: 1.
    storage
        Where checkpoints are kept: a directory or URI that all machines reach.
    max_failures
        How often lost workers are replaced, continuing from the last checkpoint. Default: 3.

    """

    ray: str | None = None
    workers: int | None = None
    storage: str | None = None
    max_failures: int | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Tuned:
    """Which model, with which adapter.

    Parameters
    ----------
    model
        Catalogue name, repository id or directory. Default: the adapter's base model, or the embedded model.
    adapter
        Output directory of `arriero train`, or owner/name[@revision] on Hugging Face, or modelscope:owner/name; base
        model and system prompt come with it.
    system
        System prompt. Default: the one the adapter, also a merged one, was trained with, or the chat template's own.

    """

    model: str | None = None
    adapter: str | None = None
    system: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BaseOptions(PromptOptions, _Base):
    """What is trained, and how its prompts are made."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TunedOptions(PromptOptions, _Tuned):
    """Which model, with which adapter, and how its prompts are made."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes.

    Parameters
    ----------
    engine
        What computes the answer. auto chooses by hardware and says so.
    precision
        Of the weights. auto: int8 with OpenVINO, else the model's own, or int4 where the adapter was trained over it.
    deterministic
        Make an answer the same alone and beside others, at some cost in speed.
    cuda_graphs
        Capture the steps that write answers as CUDA graphs, with the transformers engine. auto: where they can be.

    """

    engine: EngineName = "auto"
    precision: Precision = "auto"
    deterministic: bool = False
    cuda_graphs: CudaGraphs = "auto"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions(EngineOptions, TunedOptions):
    """Which model answers."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Where it computes.

    Parameters
    ----------
    ray
        A Ray cluster that computes: HOST:PORT, auto for the one this machine belongs to, or local for one on this
        machine alone. Default: none, this process has one engine.
    replicas
        How many engines there: N, or MIN:MAX for as many as requests need. Default: 1.
    gpus_per_replica
        GPUs of each. Default: 1 where the cluster has any.

    """

    ray: str | None = None
    replicas: str | None = None
    gpus_per_replica: int | None = None

    def deployment(self, name: str, drain_seconds: float) -> Deployment | None:
        """What runs on the cluster, under `name`; None without a cluster, UsageError for what makes no sense."""
        if self.ray is None:
            if self.replicas is not None or self.gpus_per_replica is not None:
                raise UsageError("--replicas and --gpus-per-replica are for a Ray cluster", hint="add --ray local")
            return None
        from arriero.cluster.serving.scale import Deployment, Scale

        scale = Scale.of(1 if self.replicas is None else self.replicas, self.gpus_per_replica)
        return Deployment(self.ray, scale, name, drain_seconds)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class _Served:
    """Which models answer.

    Parameters
    ----------
    model
        Catalogue name, repository id or directory. Default: the adapter's base model, or the embedded model.
    adapter
        NAME=PLACE or PLACE, the output directory of `arriero train` or owner/name on a hub; may be given several times.
        Requests choose one by its name; the first answers those that name none, POST / and the web page.
    system
        System prompt of all models. Default: the one each adapter, also a merged one, was trained with, or the chat
        template's own.
    embedding
        An embedding model for /v1/embeddings: all-minilm-l6-v2, a repository id or a directory. Default: none.

    """

    model: str | None = None
    adapter: Texts = ()
    system: str | None = None
    embedding: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServedOptions(ReplicaOptions, EngineOptions, PromptOptions, _Served):
    """Which models answer, how their prompts are made, and what computes."""


def named(given: tuple[str, ...]) -> dict[str, Path]:
    """Adapter directories by name, from NAME=PATH or PATH alone: a directory, or an adapter's name on a hub."""
    named_paths = []
    for text in given:
        name, _, path = text.partition("=")
        if not path or Path(text).is_dir():  # a path with a = in it
            name, path = "", text
        named_paths.append((name, path))
    return hub.adapters.by_name(named_paths)


def examples(*commands: str) -> str:
    """The examples at the end of a help page, in Markdown."""
    return "**Examples**\n\n" + "\n".join(f"    arriero {command}" for command in commands)


def plain(options: DataclassInstance) -> dict[str, Any]:
    """The fields of an options dataclass as keyword arguments."""
    return asdict(options)
