"""Every command that README, docs and examples name is one that the program takes."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from arriero.cli.main import VERBS, app
from arriero.cli.synonyms import meant
from tests.docs.written import ROOT, Written, inline, lines

COMMANDS = [(each, command) for each in (*lines(), *inline()) for command in each.commands()]
TARGETS = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
OPTION = re.compile(r"(?<![\w-])--[a-z0-9][a-z0-9-]*")
OPTIONS = {*OPTION.findall((ROOT / "docs" / "cli.md").read_text(encoding="utf-8")), "--help"}  # held to the help pages
RAYS = {"--node-ip-address", "--dashboard-host"}
BARE = [each for each in inline() if each.text.startswith("--") and each.file.name not in {"benchmarks.md", "cli.md"}]
STANDS_FOR = {"N": "1", "K": "1", "MIN:MAX": "1:2"}  # in prose: `--workers N`


def named(program: str):
    """The commands of a program, each a case of its own, called by file and line."""
    cases = [pytest.param(written, command, id=str(written)) for written, command in COMMANDS if command[0] == program]
    assert cases, f"no {program} in the docs any more"
    return pytest.mark.parametrize(("written", "command"), cases)


@functools.cache  # most are named many times
def parse(typed: tuple[str, ...], *, whole: bool) -> None:
    """Hold a command line against the parser; unless it is `whole`, what it leaves out is filled in."""
    words = meant([STANDS_FOR.get(word, word) for word in typed])
    for _ in range(9):
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
            return
        except MissingArgumentError as error:
            if whole or error.argument is None:
                raise
            if error.argument.tokens or error.keyword:  # `arriero serve --ray`: an option without its value
                words = [*words, "1"]
            elif error.argument.index is None:
                words = [*words, error.argument.names[0], "1"]
            else:
                words = [*words[: len(error.command_chain)], "1", *words[len(error.command_chain) :]]
    raise AssertionError(words)


@named("arriero")
def test_the_parser_takes_it(written: Written, command: list[str]):
    try:
        parse(tuple(command[1:]), whole=not written.inline)
    except CycloptsError as error:
        pytest.fail(f"{written}\n{error}", pytrace=False)


@pytest.mark.parametrize("written", BARE, ids=str)
def test_an_option_in_a_sentence_is_one(written: Written):
    assert set(OPTION.findall(written.text)) <= OPTIONS | RAYS, written


@named("torchrun")
def test_what_torchrun_starts_is_a_command(written: Written, command: list[str]):
    if "arriero.cli" in command:
        parse(tuple(command[command.index("arriero.cli") + 1 :]), whole=True)


@named("python")
def test_the_module_is_there(written: Written, command: list[str]):
    _, option, module, *_ = command
    assert option == "-m", written
    path = ROOT / module.replace(".", "/")
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), written


@named("make")
def test_the_makefile_has_the_target(written: Written, command: list[str]):
    assert set(command[1:]) <= TARGETS, written


@named("pip")
def test_the_extra_is_declared(written: Written, command: list[str]):
    for word in command:
        extras = re.fullmatch(r"(?:arriero|\.)\[(.+)\]", word)
        assert extras is None or set(extras[1].split(",")) <= set(EXTRAS), written


def test_an_option_that_is_gone_fails_with_file_and_line():
    gone = Written(ROOT / "README.md", 7, "arriero train my.json --output runs/mine --epoch-count 2")
    (command,) = gone.commands()
    with pytest.raises(pytest.fail.Exception, match=r"README\.md:7: .*\n.*epoch-count"):
        test_the_parser_takes_it(gone, command)
    with pytest.raises(CycloptsError):
        parse(("serve", "--rays"), whole=False)


def test_commands_are_told_from_prose():
    words = Written(Path("x.md"), 1, 'A$ git diff | arriero ask "Why?" < notes.txt   # one answer').commands()
    assert words == [["git", "diff"], ["arriero", "ask", "Why?"], ["notes.txt"]]
    assert Written(Path("x.md"), 1, "the model's own").commands() == []
    assert set(VERBS) <= {command[1] for _, command in COMMANDS if command[0] == "arriero" and command[1:]}
