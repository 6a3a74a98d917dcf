"""Files that set options: ARRIERO_HOME/config.toml for every verb, and the one given to `train --config`.

Each value goes to cyclopts with the file and line it comes from, so that what is wrong with it names both.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from arriero import settings
from arriero.errors import NotFoundError, UsageError
from arriero.formatting import nearest

TOP = ("model",)  # of config.toml; all else in it is a verb's table


class ConfigFiles:
    """Fills in what the command line left open: first from the file of --config, then from the verb's own table.

    `sources` says for the options that a file has set where: "FILE, line N".
    """

    def __init__(self, verbs: Collection[str]) -> None:
        self.sources: dict[str, str] = {}
        self._verbs = verbs

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """As cyclopts calls it, with the command line's values in `arguments`."""
        self.sources.clear()
        for argument in arguments:
            if argument.name == "--config" and argument.tokens:
                path = Path(argument.tokens[0].value)
                self._apply(path, _loaded(path), app, commands, arguments)
        if len(commands) == 1:
            table = self.tables().get(commands[0], {})
            self._apply(settings.config_file(), table, app, commands, arguments)

    def tables(self) -> dict[str, dict[str, Any]]:
        """The verbs' tables of config.toml; UsageError for anything there that is not understood."""
        path, configured = settings.config_file(), settings.configured()
        for name, value in configured.items():
            if name not in (*TOP, *self._verbs) or isinstance(value, dict) == (name in TOP):
                near = nearest(name, (*TOP, *self._verbs))
                raise UsageError(
                    f"{path}, line {line_of(name, path)}: expected model = NAME, or a verb's table such as [serve]",
                    hint=f"did you mean {near}?" if near else "arriero --help lists the verbs",
                )
        return {name: table for name, table in configured.items() if name not in TOP}

    def blame(self, message: str) -> str:
        """A message about an option, with the file and line that set it, if it was a file."""
        source = self.sources.get(message.partition(" ")[0])
        return f"{source}: {message}" if source is not None else message

    def _apply(
        self, path: Path, values: Mapping[str, Any], app: App, commands: tuple[str, ...], arguments: ArgumentCollection
    ) -> None:
        table = commands[0] if path == settings.config_file() else ""
        for name, value in values.items():
            source = f"{path}, line {line_of(name, path, table)}"
            Dict({name: value}, source=source, use_commands_as_keys=False)(app, commands, arguments)
            if any(token.source == source for argument in arguments for token in argument.tokens):
                self.sources[name] = source


def line_of(name: str, path: Path, table: str = "") -> int:
    """The line, from 1, on which a file sets `name`, or has it as a heading; in TOML under the heading `[table]`."""
    lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    start = 0 if not table else line_of(table, path)
    key = re.compile(rf"\s*\[?\s*[\"']?{re.escape(name)}[\"']?\s*[].:=]")
    return next((number for number, line in enumerate(lines[start:], start + 1) if key.match(line)), start or 1)


def _loaded(path: Path) -> Mapping[str, Any]:
    """The file of --config: YAML, or TOML by its ending."""
    path = path.expanduser()
    try:
        values = settings.read_toml(path) if path.suffix == ".toml" else _yaml(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"no configuration file {path}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a configuration file: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}, line 1: expected options, NAME: VALUE on each line, got a {type(values).__name__}")
    return values


def _yaml(path: Path) -> Any:
    import yaml  # type: ignore[import-untyped]

    text = path.read_text(encoding="utf-8")
    try:
        return yaml.safe_load(text) or {}
    except yaml.MarkedYAMLError as error:
        mark = error.context_mark or error.problem_mark  # where the construct begins, rather than where it fails
        line = 1 if mark is None else min(mark.line + 1, len(text.splitlines()))  # the end is after the last line
        raise UsageError(f"{path}, line {line}: {error.problem or 'this is not YAML'}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
