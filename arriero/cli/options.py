"""Options that several commands share, declared once, and configuration files that set the same names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Toml, Yaml

from arriero.engines.registry import EngineName, Precision
from arriero.errors import NotFoundError, UsageError

Texts = Annotated[tuple[str, ...], Parameter(show_default=False)]
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
class BaseOptions(PromptOptions):
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
class TunedOptions(PromptOptions):
    """Which model, with which adapter.

    Parameters
    ----------
    model
        Catalogue name, repository id or directory. Default: the adapter's base model, or the embedded model.
    adapter
        Output directory of `arriero train`.
    system
        System prompt. Default: the one the adapter, also a merged one, was trained with, or the chat template's own.

    """

    model: str | None = None
    adapter: str | None = None
    system: str | None = None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What computes.

    Parameters
    ----------
    engine
        What computes the answer. auto chooses by hardware and says so.
    precision
        Of the weights. auto: int8 with OpenVINO, else the model's own.
    deterministic
        Make an answer the same alone and beside others, at some cost in speed.

    """

    engine: EngineName = "auto"
    precision: Precision = "auto"
    deterministic: bool = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelOptions(EngineOptions, TunedOptions):
    """Which model answers."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ServedOptions(EngineOptions, PromptOptions):
    """Which models answer.

    Parameters
    ----------
    model
        Catalogue name, repository id or directory. Default: the adapter's base model, or the embedded model.
    adapter
        NAME=DIRECTORY or DIRECTORY, the output of `arriero train`; may be given several times. Requests choose one by
        its name; the first answers POST / and the web page.
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


def examples(*commands: str) -> str:
    """The examples at the end of a help page, in Markdown."""
    return "**Examples**\n\n" + "\n".join(f"    arriero {command}" for command in commands)


def plain(options: object) -> dict[str, Any]:
    """The fields of an options dataclass as keyword arguments."""
    return asdict(options)  # type: ignore[call-overload,no-any-return]


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what the command line left open from the file given with --config (YAML, or TOML by its ending)."""
    for argument in arguments:
        if argument.name == "--config" and argument.tokens:
            path = argument.tokens[0].value
            loader = (Toml if path.endswith(".toml") else Yaml)(
                path, must_exist=True, use_commands_as_keys=False, allow_unknown=False
            )
            try:
                loader.config  # noqa: B018  reads the file
            except FileNotFoundError as error:
                raise NotFoundError(f"no configuration file {path}") from error
            except Exception as error:
                raise UsageError(f"{path} cannot be read as a configuration file: {error}") from error
            loader(app, commands, arguments)
