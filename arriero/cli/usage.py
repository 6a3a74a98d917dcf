"""What is wrong with a command line, in the words of who typed it, and what to type instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from arriero.errors import UnsupportedError, UsageError
from arriero.formatting import nearest

if TYPE_CHECKING:
    from cyclopts import Argument, ArgumentCollection

DESTRUCTIVE = {"remove"}  # never suggested: who mistypes may mean something else
OPTIONS = {
    "precision": "--precision",
    "constraint": "--schema",
    "constraint_after_reasoning": "--schema, or --max-reasoning-tokens,",
}
TEXTS = {"--system"}  # options whose value is a sentence


def explained(error: CycloptsError, verbs: Iterable[str]) -> tuple[str, str]:
    """What is wrong, and what to try."""
    command = " ".join(error.command_chain or ())
    hint = f"arriero {command} --help".replace("  ", " ")
    if isinstance(error, UnknownCommandError):
        return _unknown(str((error.unused_tokens or [""])[0]), verbs), hint
    if isinstance(error, UnusedCliTokensError):
        return _unused(error, command, hint)
    if type(error) is MissingArgumentError:
        return _missing(error, command, hint)
    return str(error), hint


def lacking(error: UnsupportedError) -> str:
    """What an engine does not do, under the name of the option that asks for it."""
    name = error.feature.partition(" ")[0]  # "precision int4" has a value
    if name not in OPTIONS and not error.feature.isidentifier():
        return error.message
    option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
    return error.message.replace(error.feature, option + error.feature.removeprefix(name))


def _unknown(word: str, names: Iterable[str], before: str = "") -> str:
    near = nearest(word, set(names) - DESTRUCTIVE)
    return f'Unknown command "{before}{word}".' + (f' Did you mean "{before}{near}"?' if near else "")


def _missing(error: MissingArgumentError, command: str, hint: str) -> tuple[str, str]:
    if error.argument is None:
        return str(error), hint
    name = error.argument.names[0]
    if error.keyword is not None or error.argument.tokens:
        return f"{error.keyword or name} needs a value", hint
    if error.argument.index is None:
        return f"{command} needs the option {name}", hint
    name = name.lstrip("-").upper()
    for run in _runs(error):
        if run.option is not None and run.option.parameter.consume_multiple:
            hint = f"{name} before {run.option.name}, which takes every word that follows it"
    return f"{command} needs {name}", hint


def _unused(error: UnusedCliTokensError, command: str, hint: str) -> tuple[str, str]:
    word = (error.unused_tokens or [""])[0]
    if error.app is not None and (subcommands := [name for name in error.app if not name.startswith("-")]):
        return _unknown(word, subcommands, f"{command} "), hint
    for run in _runs(error):
        if run.option is not None and word in run.words:
            return f"{run.option.name} takes one value, got {' '.join([*run.values, word])}", run.repaired(word)
    return f"{command} takes nothing more, got {word!r}", hint


@dataclass
class Run:
    """Words in a row that are no option and no option's value, with the option right before them and its values."""

    option: Argument | None = None
    values: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether the option takes more than one value."""
        return self.option is not None and self.option.token_count()[1]

    def repaired(self, word: str) -> str:
        """What may have been meant: the option again for each value, or one value with a blank in it."""
        name, values = self.option.name if self.option is not None else "", [*self.values, word]
        return " ".join(f"{name} {value}" for value in values) if self.several else f'{name} "{" ".join(values)}"'


def runs(words: Sequence[str], arguments: ArgumentCollection) -> list[Run]:
    """Split the words after a verb at its options; a Run has no words where one option follows another."""
    made, due = [Run()], 0
    for position, word in enumerate(words):
        if due:
            due -= 1
            made[-1].values.append(word)
        elif word == "--":
            return [*made, Run(words=list(words[position + 1 :]))]
        elif word.startswith("-") and word != "-":
            name, _, value = word.partition("=")
            option = next((argument for argument in arguments if name in argument.names), None)
            if option is None:
                return made  # unknown, so what follows may be its value
            due = 0 if value else option.token_count()[0]
            made.append(Run(option if due or value else None, [value] if value else []))
        elif made[-1].option is not None and made[-1].option.parameter.consume_multiple:
            made[-1].values.append(word)
        else:
            made[-1].words.append(word)
    return made


def _runs(error: CycloptsError) -> list[Run]:
    if error.app is None or error.app.default_command is None:
        return []
    words = (error.root_input_tokens or [])[len(error.command_chain or ()) :]
    return runs(words, error.app.assemble_argument_collection())


def check_question(app: App, words: Sequence[str]) -> None:
    """Raise UsageError where the words of a question without quotation marks could be meant for an option."""
    asked = [run for run in runs(words, app.assemble_argument_collection()) if run.words]
    if len(asked) > 1:
        listed = " … ".join(" ".join(run.words) for run in asked)
        raise UsageError(f"the question stands in {len(asked)} places: {listed}", hint="put it in quotation marks")
    for run in asked:
        if run.option is not None and run.option.name == "--file" and Path(run.words[0]).is_file():
            raise UsageError(f"--file takes one file, got {run.words[0]} as well", hint=run.repaired(run.words[0]))
        if run.option is not None and len(run.words) > 1 and (run.several or run.option.name in TEXTS):
            raise UsageError(
                f"do these words belong to {run.option.name} or to the question: {' '.join(run.words)}?",
                hint="put the question in quotation marks, or before the options",
            )
