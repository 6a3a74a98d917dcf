"""The command line: exit codes, messages without tracebacks, JSON alone on standard output, a quick --help."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

import arriero
from arriero.cli.main import VERBS


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


HEAVY = "{'torch', 'transformers', 'openvino', 'vllm', 'streamlit', 'ray', 'langchain_core', 'fastapi', 'pydantic'}"


@pytest.mark.parametrize(
    "code", ["import arriero", "from arriero.cli.main import main; main(['--help'])", "import arriero.training"]
)
def test_start_up_imports_nothing_heavy(code):
    assert python(f"{code}\nimport sys; print(sorted({HEAVY} & set(sys.modules)))").endswith("[]")


NOWHERE = [
    ["train", "none.json", "--output", "out"],
    ["train", "none.json", "--output", "out", "--plan"],
    ["evaluate", "none.json"],
    ["merge", "none", "--output", "out"],
    ["batch", "none.jsonl", "--output", "out.jsonl"],
    ["adopt", "none"],
    ["push", "none", "me/mine"],
    ["inspect", "none.json"],
    ["ask", "hi", "--adapter", "none"],
    ["chat", "--model", "none"],
]


def test_a_path_that_leads_nowhere_is_told_before_anything_heavy_is_imported(tmp_path, monkeypatch):
    """Some of these took four seconds to say that there is no such file; the last one took `none` for a model."""
    monkeypatch.chdir(tmp_path)
    code = f"""
import sys
from arriero.cli.main import main
for command in {NOWHERE}:
    print(command[0], main(command), sorted({HEAVY} & set(sys.modules)))
"""
    assert python(code).splitlines() == [f"{command[0]} 4 []" for command in NOWHERE]


def test_help_is_quick():
    """The budget is 0.25 s against a bare interpreter's own start; the machine's speed cancels out of the ratio."""

    def seconds(arguments):
        started = os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        ended = os.times()
        return ended.children_user - started.children_user + ended.children_system - started.children_system

    bare = min(seconds(["-c", "import json, dataclasses, typing, inspect, logging"]) for _ in range(3))
    helped = min(seconds(["-m", "arriero.cli", "--help"]) for _ in range(3))
    assert helped < 10 * bare, f"--help took {helped:.2f} s of processor time, a bare start {bare:.2f} s"


def test_the_program_has_help_with_examples_and_a_line_for_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "Examples" in out
    assert all(f"│ {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"arriero {verb}" in out


@pytest.mark.parametrize(("verb", "line"), VERBS.items())
def test_a_verb_is_a_file_whose_help_begins_with_its_line_in_the_list(verb, line):
    """The program's own help imports no verb, so the line is there twice."""
    app = importlib.import_module(f"arriero.cli.{verb}").app
    assert app.default_command.__doc__.partition("\n")[0] == line


def test_version(run):
    assert run("--version") == (0, arriero.__version__ + "\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["trian"], 2, 'Did you mean "train"?'),
        (["ask", "hi", "--temprature", "1"], 2, "--temperature"),
        (["ask", ""], 2, "the question is empty"),
        (["ask", "  \n"], 2, "the question is empty"),
        (["ask", "hi", "--temperature", "9"], 2, "temperature must be between 0 and 2"),
        (["ask", "hi", "--engine", "tpu"], 2, "tpu"),
        (["ask", "hi", "--model", "lama"], 4, "no model is called 'lama'"),
        (["ask", "hi", "--model", "llama-3.1-8b-instruct"], 4, "arriero download llama-3.1-8b-instruct"),
        (["ask", "hi", "--model", "./nothing"], 4, "no directory"),
        (["ask", "hi", "--adapter", "./nothing"], 4, "arriero train"),
        (["train", "none.json", "--output", "out"], 4, "no file none.json"),
        (["train", "none.json"], 2, "--output"),
        (["train", "none.json", "--output", "out", "--rank", "0"], 2, "rank must be at least 1"),
        (["train", "none.json", "--output", "out", "--config", "none.yaml"], 4, "no configuration file"),
        (["models", "remove", "nothing"], 4, "no model 'nothing'"),
        (["download", "a/b/c"], 4, "no model is called"),
    ],
)
def test_bad_input_is_told_without_a_traceback(run, home, tmp_path, monkeypatch, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("fastapi", ["serve", "--port", "0"], "server"),
        ("datasets", ["train", "ROWS", "--output", "out"], "training"),
        pytest.param("peft", ["train", "ROWS", "--output", "out"], "training", marks=pytest.mark.slow),
    ],
)
def test_a_missing_package_names_its_extra(home, rows_file, model_dir, tmp_path, package, arguments, extra):
    arguments = [str(rows_file) if argument == "ROWS" else argument for argument in arguments]
    code = (
        f"import sys; sys.modules[{package!r}] = None; from arriero.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments, "--model", str(model_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert f'pip install "arriero[{extra}]"' in done.stderr
    assert "Traceback" not in done.stderr
