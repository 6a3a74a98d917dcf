"""merge(): what the receipt says, what is refused, and the command line."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from arriero.cli.main import main
from arriero.errors import ArrieroError, ContractError, NotFoundError, UsageError
from arriero.messages import Conversation
from arriero.prompt import Contract
from arriero.training.adapter.evaluate import evaluate
from arriero.training.adapter.merge import merge
from tests.training.adapter.conftest import FILES, SAMPLE, logits, plain, renderer_of, report, tuned


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["merge", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_receipt_s_figures(stored_as, make_adapter, rendered, rows_file, tmp_path):
    """Against a plain computation: softmax over full logits, one row at a time."""
    base = stored_as(torch.bfloat16)
    adapter = make_adapter(base)
    receipt = merge(adapter, tmp_path / "merged", model=base, file=rows_file, rows=5)
    examples = [renderer_of(base).render(Conversation.of(SAMPLE)), *rendered[:5]]
    gaps, divergences, same = [], [], []
    models = tuned(base, adapter, dtype="auto"), plain(tmp_path / "merged", dtype="auto")
    for example, *pair in zip(examples, *(logits(model, examples) for model in models), strict=True):
        positions = [position - 1 for position, loss in enumerate(example.mask) if loss]
        before, after = (each[positions].double() for each in pair)
        gaps.append((before - after).abs())
        p, q = before.softmax(-1), after.softmax(-1)
        divergences.append((p * (p / q).log()).sum(-1))
        same.append(before.argmax(-1) == after.argmax(-1))
    kl = torch.cat(divergences)
    assert (receipt.rows, receipt.positions, receipt.dtype) == (6, len(kl), "bfloat16")
    assert receipt.max_kl == pytest.approx(kl.max().item(), rel=1e-4)
    assert receipt.mean_kl == pytest.approx(kl.mean().item(), rel=1e-4)
    assert receipt.max_logit_difference == pytest.approx(torch.cat(gaps).max().item())
    assert receipt.mean_logit_difference == pytest.approx(torch.cat(gaps).mean().item(), rel=1e-6)
    assert receipt.same_choice == pytest.approx(torch.cat(same).double().mean().item())


def test_the_receipt_is_of_held_out_rows_where_training_held_some_out(model_dir, make_adapter, rows_file, tmp_path):
    adapter = make_adapter(model_dir)
    report(adapter, eval_fraction=0.4, seed=1)
    held_out = evaluate(rows_file, model=model_dir, adapter=adapter, held_out=True).rows
    assert 0 < held_out < 8
    assert merge(adapter, tmp_path / "a", model=model_dir, file=rows_file).rows == 1 + held_out
    report(adapter, eval_fraction=0.0, seed=1)
    assert merge(adapter, tmp_path / "b", model=model_dir, file=rows_file).rows == 1 + 8


def test_a_quantised_base_is_refused_unless_allowed(stored_as, make_adapter, tmp_path):
    base = stored_as(torch.float32)
    adapter = make_adapter(base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "aqlm"}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"stored quantised \(aqlm\)") as caught:
        merge(adapter, tmp_path / "merged", model=base)
    assert "--allow-quantised" in caught.value.hint
    with pytest.raises(ArrieroError, match="cannot be loaded"):  # its package is not installed
        merge(adapter, tmp_path / "merged", model=base, allow_quantised=True)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("told_by", ["report", "contract"])
def test_an_adapter_trained_in_four_bits_is_refused_unless_allowed(model_dir, make_adapter, tmp_path, told_by):
    """Without a report, as checkpoints and what comes from a hub are, it was merged without a word."""
    adapter = make_adapter(model_dir)
    if told_by == "report":
        report(adapter, load_in_4bit=True)
    else:
        replace(Contract.load(adapter), base_in_4bit=True).save(adapter)
    with pytest.raises(UsageError, match="load_in_4bit"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    assert merge(adapter, tmp_path / "merged", model=model_dir, allow_quantised=True).quantised_base


def test_what_is_refused(model_dir, other_model_dir, make_adapter, tmp_path):
    adapter = make_adapter(model_dir)
    thesis = tmp_path / "taken" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("mine")
    for taken in (thesis.parent, thesis):
        with pytest.raises(UsageError, match="not an empty directory"):
            merge(adapter, taken, model=model_dir)
    assert [file.name for file in thesis.parent.iterdir()] == ["thesis.txt"]
    with pytest.raises(ContractError, match="the base model's weights"):
        merge(adapter, tmp_path / "merged", model=other_model_dir)
    with pytest.raises(NotFoundError, match="the adapter's base model is not on disk"):
        merge(adapter, tmp_path / "merged")
    with pytest.raises(NotFoundError, match="not an adapter directory"):
        merge(tmp_path, tmp_path / "merged", model=model_dir)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "taken"}


def test_an_empty_directory_is_filled(model_dir, make_adapter, tmp_path):
    (tmp_path / "merged").mkdir()
    merge(make_adapter(model_dir), tmp_path / "merged", model=model_dir)
    assert {file.name for file in (tmp_path / "merged").iterdir()} == FILES


def test_broken_matrices_are_refused(model_dir, make_adapter, tmp_path):
    adapter = make_adapter(model_dir)
    file = adapter / "adapter_model.safetensors"
    matrices = load_file(file)
    matrices[min(matrices)].fill_(float("nan"))
    save_file(matrices, file)
    with pytest.raises(ArrieroError, match="cannot be merged into tiny: NaNs"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_weights_too_large_for_the_stored_type_are_refused(stored_as, make_adapter, tmp_path):
    base = stored_as(torch.float16)
    adapter = make_adapter(base, lora_alpha=1e9)
    with pytest.raises(ArrieroError, match="too large for torch"):
        merge(adapter, tmp_path / "merged", model=base)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(model_dir, make_adapter, tmp_path):
    """A process that may write no file larger than 20 kB, as if the disk were full: the weights do not fit."""
    adapter = make_adapter(model_dir)
    command = [sys.executable, "-m", "arriero.cli", "merge", str(adapter), "--model", str(model_dir)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "merged")],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.slow
def test_one_process_at_a_time_writes_an_output_and_a_killed_one_leaves_nothing(model_dir, make_adapter, tmp_path):
    """Stopped, then killed once the comparison is announced, when all the weights are written; they stayed on disk."""
    adapter = make_adapter(model_dir)
    command = [sys.executable, "-m", "arriero.cli", "merge", str(adapter), "--model", str(model_dir)]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "merged")], stderr=subprocess.PIPE, text=True)
    assert any(line.startswith("comparing") for line in process.stderr)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UsageError, match=rf"merged is being written by process {process.pid} \(.*arriero\.cli merge"):
        merge(adapter, tmp_path / "merged", model=model_dir)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "merged").exists()
    merge(adapter, tmp_path / "merged", model=model_dir)
    assert (tmp_path / "merged" / "merge.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "merged"}


def test_the_json_document(run, model_dir, make_adapter, rows_file, tmp_path):
    adapter = make_adapter(model_dir)
    code, out, err = run(
        adapter, "--model", model_dir, "--output", tmp_path / "merged", "--data", rows_file, "--rows", 2, "--json"
    )
    assert code == 0, err
    document = json.loads(out)
    assert (document["output"], document["rows"]) == (str(tmp_path / "merged"), 3)
    assert {
        "positions", "max_logit_difference", "mean_logit_difference", "max_kl", "mean_kl", "dtype", "system"
    } <= set(document)  # fmt: skip


def test_the_receipt_for_people_names_the_system_prompt(run, model_dir, make_adapter, tmp_path):
    code, out, err = run(make_adapter(model_dir), "--model", model_dir, "--output", tmp_path / "merged")
    assert code == 0
    assert out == f"{tmp_path / 'merged'}\n"
    assert f"system prompt: 'Be Killa.'; contract of merged\ntry: arriero chat --model {tmp_path / 'merged'}\n" in err
    assert "divergence" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["./nothing", "--output", "x"], 4, "not an adapter directory"),
        (["ADAPTER", "--output", "/sys/merged"], 1, "merged model"),
        (["ADAPTER", "--output", "adapter/arriero.json/merged"], 1, "cannot be written"),
        (["ADAPTER", "--output", "x", "--data", "none.json"], 4, "no file none.json"),
        (["ADAPTER", "--output", "x", "--rows", "0"], 2, "rows must be at least 1"),
        (["ADAPTER"], 2, "--output"),
    ],
)
def test_bad_input(run, model_dir, make_adapter, tmp_path, monkeypatch, arguments, code, told):
    monkeypatch.chdir(tmp_path)
    adapter = make_adapter(model_dir)
    arguments = [adapter if argument == "ADAPTER" else argument for argument in arguments]
    found, out, err = run(*arguments, "--model", model_dir)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
