"""config: what is set where, by a file, the environment or by default."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from cyclopts import App

from arriero import settings
from arriero.cli import output
from arriero.cli.config_files import line_of
from arriero.cli.options import Json, examples
from arriero.errors import UsageError

if TYPE_CHECKING:
    from cyclopts import Argument

KEYS = {"api_key": "ARRIERO_API_KEY", "admin_key": "ARRIERO_ADMIN_KEY"}
EXAMPLE = """    model = "llama-3.1-8b-instruct"

    [serve]
    port = 8000"""
app = App(
    name="config",
    help_epilogue=examples("config", "config serve", "config --json")
    + f"\n\n**ARRIERO_HOME/config.toml, for example**\n\n{EXAMPLE}",
)


@dataclass(frozen=True, slots=True)
class Value:
    """A setting, and where its value comes from: default, environment or a line of a file."""

    name: str
    value: str | None
    source: str


@app.default
def config(verb: str | None = None, /, *, as_json: Json = False) -> None:
    """Show the settings, and where each comes from: a file, the environment or the default.

    ARRIERO_HOME/config.toml sets the model that is used without --model, and in a table for each verb its options, by
    their names. The command line overrides it.

    Parameters
    ----------
    verb
        Show all options of this verb instead.

    """
    values = list(_of_verb(verb) if verb is not None else _settings())
    if as_json:
        output.document({"file": str(settings.config_file()), "values": [asdict(value) for value in values]})
        return
    for value in values:
        print(f"{value.name:24} {'not set' if value.value is None else value.value:32}  {value.source}")
    file = settings.config_file()
    output.note(f"the file {file} {'is read' if file.exists() else 'would be read, but there is none'}")


def _settings() -> Iterator[Value]:
    """What holds for all verbs, and what config.toml sets for some."""
    from arriero.cli.main import files

    tables = files.tables()
    yield Value("home", str(settings.home()), _environment("ARRIERO_HOME") or "default")
    file, configured = settings.config_file(), "default"
    if "model" in settings.configured():
        configured = f"{file}, line {line_of('model', file)}"
    yield Value("model", settings.default_model(), _environment("ARRIERO_MODEL") or configured)
    for name, variable in KEYS.items():
        source = _environment(variable)
        yield Value(name, "(set)" if source else None, source or "default")
    for verb in tables:
        yield from (value for value in _of_verb(verb) if value.source != "default")


def _environment(variable: str) -> str:
    return f"environment, {variable}" if os.environ.get(variable) else ""


def _of_verb(verb: str) -> Iterator[Value]:
    """Every option of a verb."""
    from arriero.cli.main import VERBS, files
    from arriero.cli.main import app as program

    if verb not in VERBS:
        raise UsageError(f"no verb {verb!r}", hint="arriero --help lists the verbs")
    arguments = program[verb].assemble_argument_collection()
    files(program[verb], (verb,), arguments)
    for argument in arguments:
        if argument.parse and argument.show and argument.name.startswith("--") and not argument.children:
            yield _value(verb, argument)


def _value(verb: str, argument: Argument) -> Value:
    name = f"{verb}.{argument.name.removeprefix('--').replace('-', '_')}"
    if argument.tokens:
        return Value(name, " ".join(token.value for token in argument.tokens), argument.tokens[0].source)
    default = argument.field_info.default
    if default is None or default == () or argument.required:
        return Value(name, None, "default")
    return Value(name, str(default), "default")
