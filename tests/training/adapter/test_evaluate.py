"""evaluate(): a data file's figures, which rows count, base and adapter side by side; the command line."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from arriero import data
from arriero.cli.main import main
from arriero.errors import ContractError, DataError, NotFoundError, UsageError
from arriero.training.adapter.evaluate import evaluate
from tests.conftest import ROWS, train_tiny
from tests.training.adapter.conftest import loop, plain, renderer_of, report, tuned


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["evaluate", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_it_agrees_with_a_plain_forward_pass(rows_file, model_dir, make_adapter, rendered):
    adapter = make_adapter(model_dir)
    evaluation = evaluate(rows_file, model=model_dir, adapter=adapter, precision="float32")
    for figures, model in [
        (evaluation, tuned(model_dir, adapter, dtype=torch.float32)),
        (evaluation.base, plain(model_dir, dtype=torch.float32)),
    ]:
        nll, tokens, stop_rate = loop(model, rendered)
        assert figures.nll == pytest.approx(nll, abs=1e-4)
        assert figures.perplexity == pytest.approx(math.exp(nll), rel=1e-4)
        assert (figures.rows, figures.loss_tokens, figures.stop_rate) == (len(ROWS), tokens, stop_rate)
    assert (evaluation.model, evaluation.adapter, evaluation.system, evaluation.dropped) == (
        "tiny",
        "adapter",
        "Be Killa.",
        (),
    )
    assert evaluation.contract == "adapter"


def test_without_an_adapter_the_caller_s_system_prompt_counts(rows_file, model_dir):
    renderer = renderer_of(model_dir, "Be brief.")
    loaded = data.load(rows_file)
    examples = [renderer.render(loaded.conversation(index)) for index in range(len(ROWS))]
    evaluation = evaluate(rows_file, model=model_dir, system="Be brief.", precision="float32")
    assert evaluation.nll == pytest.approx(loop(plain(model_dir, dtype=torch.float32), examples)[0], abs=1e-4)
    assert evaluation.base is None
    assert evaluate(rows_file, model=model_dir, precision="float32").nll != pytest.approx(evaluation.nll, abs=1e-4)


def test_held_out_rows_are_those_of_the_training(rows_file, model_dir, make_adapter):
    adapter = make_adapter(model_dir)
    loaded = data.load(rows_file)
    keys = loaded.table.with_format("numpy")["prompt_key"][:]
    for seed in (1, 2):
        _, indices = data.split(keys, 0.4, seed)
        assert 0 < len(indices) < len(ROWS)
        report(adapter, eval_fraction=0.4, seed=seed, rank=4)
        examples = [renderer_of(model_dir).render(loaded.conversation(int(index))) for index in indices]
        evaluation = evaluate(rows_file, model=model_dir, adapter=adapter, held_out=True, precision="float32")
        assert (evaluation.rows, evaluation.held_out) == (len(indices), True)
        nll, _, _ = loop(tuned(model_dir, adapter, dtype=torch.float32), examples)
        assert evaluation.nll == pytest.approx(nll, abs=1e-4)
    given = evaluate(rows_file, model=model_dir, held_out=True, eval_fraction=0.4, seed=1, precision="float32")
    assert given.rows == len(data.split(keys, 0.4, 1)[1])


def test_the_loss_that_training_reported_is_found_again(tmp_path, rows_file, model_dir):
    adapter = train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, eval_fraction=0.4)
    result = json.loads((adapter / "report.json").read_text())["result"]
    evaluation = evaluate(rows_file, model=model_dir, adapter=adapter, held_out=True, precision="float32")
    assert evaluation.nll == pytest.approx(result["eval_loss"], abs=1e-4)


def test_rows_are_read_as_in_training_unless_told_otherwise(tmp_path, model_dir, make_adapter):
    adapter = make_adapter(model_dir)
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": turns}) + "\n")
    assert evaluate(rows, model=model_dir, adapter=adapter).loss_tokens == 4
    report(adapter, answers="last")
    assert evaluate(rows, model=model_dir, adapter=adapter).loss_tokens == 2
    assert evaluate(rows, model=model_dir, adapter=adapter, answers="all").loss_tokens == 4


def test_what_is_refused(tmp_path, rows_file, model_dir, other_model_dir, make_adapter):
    adapter = make_adapter(model_dir)
    with pytest.raises(UsageError, match="evaluate has no option 'hold_out'") as caught:
        evaluate(rows_file, model=model_dir, hold_out=True)
    assert "held_out" in caught.value.hint
    with pytest.raises(UsageError, match=r"has no report\.json"):
        evaluate(rows_file, model=model_dir, adapter=adapter, held_out=True)
    with pytest.raises(DataError, match="holds out none of its 8 rows"):
        evaluate(rows_file, model=model_dir, held_out=True, eval_fraction=0)
    with pytest.raises(ContractError, match="the base model's weights"):
        evaluate(rows_file, model=other_model_dir, adapter=adapter)
    with pytest.raises(NotFoundError, match="the adapter's base model is not on disk") as caught:
        evaluate(rows_file, adapter=adapter)
    assert "--model" in caught.value.hint
    with pytest.raises(NotFoundError, match="not an adapter directory"):
        evaluate(rows_file, adapter=tmp_path / "nothing")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(NotFoundError, match=r"has no adapter_model\.safetensors"):
        evaluate(rows_file, model=model_dir, adapter=adapter)


def test_the_json_document(run, rows_file, model_dir, make_adapter):
    adapter = make_adapter(model_dir)
    code, out, err = run(rows_file, "--model", model_dir, "--adapter", adapter, "--precision", "float32", "--json")
    assert code == 0, err
    document = json.loads(out)
    figures = {"rows", "loss_tokens", "nll", "perplexity", "stop_rate"}
    assert figures <= set(document)
    assert figures == set(document["base"])
    assert document["rows"] == len(ROWS)
    code, out, _ = run(rows_file, "--model", model_dir, "--precision", "float32", "--json")
    alone = json.loads(out)
    assert "base" not in alone
    assert figures <= set(alone)


def test_the_table_has_base_and_adapter_side_by_side(run, rows_file, model_dir, make_adapter):
    code, out, err = run(rows_file, "--model", model_dir, "--adapter", make_adapter(model_dir), "--batch-size", 2)
    assert code == 0
    head, loss, *_ = out.splitlines()
    assert head.split() == ["base", "adapter"]
    assert loss.split()[0] == "loss"
    assert "8 rows" in err
    assert "system prompt: 'Be Killa.'; contract of adapter\n" in err
    assert "%" in out


def test_dropped_rows_are_told_as_in_training(run, tmp_path, model_dir):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([*ROWS, {"instruction": "q", "output": ""}, {"instruction": "q", "output": "a" * 300}]))
    code, out, err = run(rows, "--model", model_dir, "--json")
    assert code == 0
    assert "left out rows.json, row 8: the output is empty" in err
    assert [drop["row"] for drop in json.loads(out)["dropped"]] == [8, 9]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["none.json"], 4, "no file none.json"),
        (["ROWS", "--batch-size", "0"], 2, "batch_size must be at least 1"),
        (["ROWS", "--precision", "int8"], 2, "int8"),
        (["ROWS", "--held-out", "--eval-fraction", "0"], 1, "holds out none"),
        (["ROWS", "--adapter", "./nothing"], 4, "arriero train"),
    ],
)
def test_bad_input(run, rows_file, model_dir, arguments, code, told):
    arguments = [rows_file if argument == "ROWS" else argument for argument in arguments]
    found, out, err = run(*arguments, "--model", model_dir)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_a_base_model_that_is_damaged(run, rows_file, model_dir, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(model_dir, broken)
    (broken / "model.safetensors").write_bytes(b"x" * 1000)
    code, _, err = run(rows_file, "--model", broken)
    assert code == 1
    assert "broken cannot be loaded" in err
