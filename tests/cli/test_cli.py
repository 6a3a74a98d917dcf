"""The command line: exit codes, messages without tracebacks, JSON alone on standard output, a quick --help."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import arriero
from arriero.cli.main import main
from arriero.terminal.screen import clean


@pytest.fixture
def run(capsys):
    """Call the command line in this process: exit code, standard output, standard error."""

    def call(*arguments):
        code = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


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


@pytest.mark.parametrize(
    "verb",
    [
        [], ["inspect"], ["train"], ["evaluate"], ["merge"], ["ask"], ["chat"], ["serve"], ["download"], ["models"],
        ["web"], ["doctor"], ["batch"],
    ],
)  # fmt: skip
def test_every_verb_has_help_with_examples(run, verb):
    code, out, _ = run(*verb, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"arriero {' '.join(verb)}".strip() in out


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


def test_a_configuration_file_sets_options_and_the_command_line_goes_first(run, home, tmp_path, rows_file, model_dir):
    config = tmp_path / "config.toml"
    config.write_text('system = "Be brief."\nepochs = 2\nrank = 4\nprecision = "float32"\n')
    out_dir = tmp_path / "run"
    arguments = ["train", rows_file, "--model", model_dir, "--output", out_dir, "--config", config, "--rank", 2]
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    assert json.loads(out)["output"] == str(out_dir)
    options = json.loads((out_dir / "report.json").read_text())["options"]
    assert (options["epochs"], options["rank"], options["alpha"]) == (2, 2, 32)


@pytest.mark.parametrize("text", ["epoch: 3", "epochs: [", "epochs: many"])
def test_a_bad_configuration_file(run, home, tmp_path, rows_file, text):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    code, _, err = run("train", rows_file, "--output", tmp_path / "run", "--config", config)
    assert code == 2, err
    assert "config.yaml" in err or "epochs" in err


@pytest.mark.parametrize("engine", ["transformers", "openvino"])
def test_ask_prints_the_answer_alone(run, home, model_dir, engine):
    arguments = ["ask", "hi", "--model", model_dir, "--engine", engine, "--max-new-tokens", 5]
    code, plain, err = run(*arguments)
    assert code == 0
    assert f"engine: {engine} (asked for)" in err
    code, out, _ = run(*arguments, "--json")
    document = json.loads(out)
    assert clean(document["text"]) + "\n" == plain
    assert document["usage"] == {"prompt_tokens": 6, "completion_tokens": 5}
    assert (document["engine"], document["model"], document["adapter"]) == (engine, "tiny", None)
    assert document["finish_reason"] == "length"
    assert set(document["timings"]) == {"load_s", "first_token_s", "total_s", "tokens_per_second"}
    assert 0 < document["timings"]["first_token_s"] < document["timings"]["total_s"]


def test_openvino_is_chosen_on_a_cpu_and_says_so(run, home, model_dir):
    _, _, err = run("ask", "hi", "--model", model_dir, "--max-new-tokens", 1)
    assert "engine: openvino (no GPU here" in err


def test_ask_reads_standard_input(home, model_dir):
    done = subprocess.run(
        [sys.executable, "-m", "arriero.cli", "ask", "--json", "--model", str(model_dir), "--max-new-tokens", "1"],
        input="骆驼？\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["usage"]["prompt_tokens"] == 1 + 1 + len("骆驼？".encode()) + 1 + 1


def test_a_reader_that_goes_away_is_no_error(home, model_dir):
    ask = f"{sys.executable} -m arriero.cli ask hi --model {model_dir} --engine transformers | head -c 0"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {ask}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("fastapi", ["serve", "--port", "0"], "server"),
        ("datasets", ["train", "ROWS", "--output", "out"], "training"),
        ("peft", ["train", "ROWS", "--output", "out"], "training"),
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


def test_a_path_that_cannot_be_written_is_told(run, home, rows_file, model_dir, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run("train", rows_file, "--model", model_dir, "--output", tmp_path / "file" / "run")
    assert code == 1
    assert "Not a directory" in err


def test_an_adapter_on_another_base_model_is_refused(run, home, trained_adapter, other_model_dir):
    code, _, err = run("ask", "hi", "--adapter", trained_adapter, "--model", other_model_dir)
    assert code == 1
    assert "the base model's weights" in err
    assert "--model tiny" in err


def test_models_are_listed_verified_and_removed(run, home, model_dir):
    import shutil

    from arriero.hub import store

    shutil.copytree(model_dir, home / "models" / "tiny")
    store.write_manifest(home / "models" / "tiny", name="tiny", source="huggingface", revision="abc")
    assert json.loads(run("models", "--json")[1])[0]["name"] == "tiny"
    assert run("models", "verify", "tiny")[0] == 0
    (home / "models" / "tiny" / "config.json").write_text("{}")
    code, out, err = run("models", "verify", "tiny", "--json")
    assert (code, json.loads(out)["verified"]) == (1, False)
    assert "config.json" in err
    assert run("models", "remove", "tiny")[0] == 0
    assert json.loads(run("models", "--json")[1]) == []


def test_doctor_says_what_would_be_used_and_why(run, home):
    code, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["engine"]["name"] == "openvino"
    assert document["engine"]["because"]
    assert document["precision"]["training"] in ("bfloat16", "float32")
    assert run("doctor")[1].startswith("arriero ")
