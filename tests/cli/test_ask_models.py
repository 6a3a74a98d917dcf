"""`arriero ask` with models that compute."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from arriero import chat
from arriero.cli import output
from arriero.engines.openvino import engine as openvino
from arriero.engines.transformers import TransformersEngine
from arriero.terminal.screen import clean


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


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(home, model_dir):
    ask = f"{sys.executable} -m arriero.cli ask hi --model {model_dir} --engine transformers | head -c 0"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {ask}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_an_adapter_on_another_base_model_is_refused(run, home, trained_adapter, other_model_dir):
    code, _, err = run("ask", "hi", "--adapter", trained_adapter, "--model", other_model_dir)
    assert code == 1
    assert "the base model's weights" in err
    assert "--model tiny" in err


def test_the_engine_is_told_when_it_is_another_than_the_last_time_for_this_model(run, home, model_dir, other_model_dir):
    def told(*arguments, model=model_dir):
        code, _, err = run("ask", "hi", "--max-new-tokens", 1, "--model", model, *arguments)
        assert code == 0, err
        return [line.split()[1] for line in err.splitlines() if line.startswith("engine:")]

    assert told("--engine", "transformers", "--json") == []
    assert told("--engine", "transformers") == ["transformers"]
    assert told("--engine", "transformers") == []
    assert told("--engine", "transformers", model=other_model_dir) == ["transformers"]
    assert told() == ["openvino"]
    assert told("--engine", "transformers") == ["transformers"]
    (home / "cache" / "engines.json").write_text("no JSON")
    assert told("--engine", "transformers") == ["transformers"], "and no failure"


def test_where_nothing_can_be_kept_the_engine_is_told_every_time(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path / "file"))
    output.log_to_stderr()
    for _ in range(2):
        logging.getLogger("arriero").info("engine: %s", "tpu", extra={"model_dir": "tiny"})
    assert capsys.readouterr().err == "engine: tpu\n" * 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "transformers", "--precision", "int8"], "the transformers engine does not do --precision int8"),
        (["--engine", "vllm", "--precision", "int8"], "the vllm engine does not do --precision int8"),
    ],
)
def test_what_an_engine_lacks_is_refused_before_it_is_begun_and_as_it_was_typed(run, home, model_dir, options, told):
    code, _, err = run("ask", "hi", "--model", model_dir, *options)
    assert code == 2
    assert err == f"error: {told}\n  try: use --engine openvino\n"


def test_a_feature_is_called_by_its_option(run, home, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersEngine, "features", frozenset({"min_p"}))
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    ask = ["ask", "hi", "--model", model_dir, "--engine", "transformers"]
    for options, name in ((["--schema", tmp_path / "schema.json"], "--schema"), (["--presence-penalty", 1], None)):
        code, _, err = run(*ask, *options)
        assert code == 2
        assert f"the transformers engine does not do {name or options[0]}\n" in err


def test_a_schema_that_the_engine_cannot_guarantee_is_refused_before_the_model_is_loaded(
    run, home, model_dir, tmp_path, monkeypatch
):
    """It was loaded, after an export of minutes for a new model, and only then was the schema looked at."""
    monkeypatch.setattr(chat, "load_engine", lambda *_: pytest.fail("it was loaded"))
    (tmp_path / "schema.json").write_text('{"type": "array", "uniqueItems": true}')
    ask = ["ask", "hi", "--model", model_dir, "--schema", tmp_path / "schema.json"]
    code, _, err = run(*ask, "--engine", "openvino")
    assert code == 2
    assert err.startswith("error: the openvino engine cannot guarantee 'uniqueItems' of a JSON schema\n")
    assert "engine: " not in err


def test_a_schema_that_only_transformers_guarantees_is_answered_by_it(run, home, model_dir, tmp_path):
    """It was refused, also for a model that OpenVINO does not take and transformers had answered for."""
    (tmp_path / "schema.json").write_text('{"type": "number", "minimum": 0.5}')
    code, out, err = run("ask", "hi", "--model", model_dir, "--schema", tmp_path / "schema.json", "--temperature", 0)
    assert "engine: transformers (" in err
    assert "openvino does not do this: bounds of a number must be whole here, got 0.5)" in err
    assert (code, float(out) >= 0.5) == (0, True)


def test_openvino_that_cannot_spell_tokens_refuses_a_schema_before_it_loads(
    run, home, model_dir, tmp_path, monkeypatch
):
    """The answer was refused, and by the name --schema, once the model had been loaded."""
    monkeypatch.setattr(openvino, "exported", lambda *_: tmp_path)  # no vocabulary is there
    monkeypatch.setattr(openvino.OpenVINOEngine, "_load", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    code, _, err = run("ask", "hi", "--model", model_dir, "--schema", tmp_path / "schema.json", "--engine", "openvino")
    assert code == 2
    assert "error: the openvino engine does not do --schema\n  try: use --engine transformers\n" in err
