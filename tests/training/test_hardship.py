"""What a run does when memory, disk or numbers give out, and when several workers share it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from arriero.errors import ArrieroError
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import Cost, Need, make
from tests.conftest import build_model, ids_of, train_tiny


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return done


def same_adapter(one, other, tolerance=1e-4):
    ours, theirs = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=tolerance, atol=tolerance * tensor.abs().max().item())


@pytest.mark.slow
def test_out_of_memory_in_a_step_makes_the_plan_smaller_and_tries_again(tmp_path, model_dir):
    """A real limit on the address space. Adam turns rounding into steps of full size where gradients are next to 0,
    so the two adapters agree to 1e-3 only."""
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"q{at}", "output": "ab" * 110 + str(at)} for at in range(192)]))
    events = {}
    for name, room in (("plenty", 0), ("short", 10_000_000)):
        done = run("tests.training.short_of_memory", rows, model_dir, tmp_path / name, room)
        events[name] = json.loads(done.stdout.splitlines()[-1])
    assert events["plenty"] == {"steps": 1, "told": []}
    assert events["short"]["steps"] == 1
    assert "out of memory: trying the step again with rows of up to 25000 tokens" in events["short"]["told"][0]
    same_adapter(tmp_path / "plenty", tmp_path / "short", 1e-3)


def test_one_process_computes_on_one_gpu_where_there_are_several(tmp_path, rows_file, model_dir, monkeypatch):
    """The Trainer wrapped the model in DataParallel, which hands each GPU a part of the tensors of a row."""

    class Refused(torch.nn.DataParallel):
        def __init__(self, *_):
            raise AssertionError("DataParallel")

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    monkeypatch.setattr(torch.nn, "DataParallel", Refused)
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, report_answers=0)


def test_a_loss_that_is_not_a_number_names_the_rows_and_keeps_the_last_checkpoint(tmp_path, rows_file):
    """The embedding of one character is broken; the row that has it comes in some step."""
    broken = build_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][ids_of("K")[0]] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"who {at}?", "output": "K" if at == 5 else "no"} for at in range(8)]))
    options = {"system": "be", "batch_size": 1, "save_steps": 1, "epochs": 1, "verify": False, "seed": 2}
    with pytest.raises(
        ArrieroError, match=r"the (loss|gradients' norm) became nan at step \d+.* rows\.json rows 5;"
    ) as caught:
        train_tiny(rows, broken, tmp_path / "run", **options)
    step = int(caught.value.message.split("at step ")[1].split(",")[0])
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert kept[-1] == f"checkpoint-{step - 1}"
    for tensor in load_file(tmp_path / "run" / "checkpoints" / kept[-1] / "adapter_model.safetensors").values():
        assert tensor.isfinite().all()


FULL_DISK = """
import resource, sys
from pathlib import Path
from arriero.errors import ArrieroError
from arriero.training import train

def limit(size):  # of every file from here on
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def run(name, on_step=None, **options):
    try:
        train(sys.argv[1], output=Path(sys.argv[3], name), model=sys.argv[2], on_step=on_step, batch_size=4,
              precision="float32", eval_fraction=0, **options)
    except ArrieroError as error:
        print(name, error.message, "try:", error.hint)

limit(19_000)  # checkpoints of rank 1 fit, the report's page of 80 steps does not
run("end", epochs=40, rank=1, target_modules="q_proj", system="Be Killa. " * 12)
limit(resource.RLIM_INFINITY)
run("step", lambda report: limit(8192) if report.step == 3 else None, epochs=4, save_steps=2)
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory, rows_file, model_dir):
    """The folder of two runs whose files became too large, by real limits, and what was told of them."""
    folder = tmp_path_factory.mktemp("full")
    return folder, run("tests.training.inline", FULL_DISK, rows_file, model_dir, folder).stdout


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(full_disk):
    folder, told = full_disk
    assert "step the checkpoint of step 4 could not be written" in told
    assert "that of step 2 is kept" in told
    assert sorted(path.name for path in (folder / "step" / "checkpoints").iterdir()) == [
        "checkpoint-2", "plan.json", "run.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_at_the_end_leaves_a_checkpoint_to_finish_from(full_disk, rows_file, model_dir):
    """It was a traceback of OSError: File too large."""
    folder, told = full_disk
    assert f"{folder / 'end'} could not be written: [Errno 27]" in told
    assert "the checkpoint of step 80 is kept try: free some space, then run the same command with --resume" in told
    assert not (folder / "end" / "arriero.json").exists(), "an adapter that was not written whole"
    options = {"epochs": 40, "rank": 1, "target_modules": "q_proj", "learning_rate": 1e-4, "system": "Be Killa. " * 12}
    finished = train_tiny(rows_file, model_dir, folder / "end", resume=True, **options)
    assert json.loads((finished / "report.json").read_text())["result"]["resumed_from"] == 80


@pytest.mark.slow
def test_two_workers_learn_what_one_does(tmp_path, rows_file, model_dir):
    """Real processes that exchange gradients; each computes its rows of every step."""
    options = ["--model", model_dir, "--epochs", 3, "--batch-size", 4, "--precision", "float32", "--json",
               "--learning-rate", 0.01, "--eval-fraction", 0]  # fmt: skip
    run("arriero.cli", "train", rows_file, "--output", tmp_path / "one", *options)
    done = run("torch.distributed.run", "--nproc_per_node", 2, "--standalone", "-m", "arriero.cli", "train",
               rows_file, "--output", tmp_path / "two", *options)  # fmt: skip
    assert json.loads(done.stdout)["steps"] == 6
    same_adapter(tmp_path / "one", tmp_path / "two")
    one, two = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    losses = [[json.loads(line)["loss"] for line in lines] for lines in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


SHARED = Mode("shared", "")
COST = Cost(per_token=1000, per_token_recomputed=10, fixed=5000, layers=10)


@pytest.mark.parametrize(
    ("available", "tokens", "recomputed"),
    [
        (10_000_000, 4096, 0),  # everything fits
        (2_000_000, 1296, 0),  # a shorter row does
        (1_000_000, 768, 0),  # the shortest that is still efficient
        (800_000, 768, 3),  # and layers again
        (400_000, 768, 9),
        (250_000, 300, 10),  # a row for the longest example only
    ],
)
def test_plans_shrink_rows_first_and_recompute_then(available, tokens, recomputed):
    plan = make(SHARED, COST, Need(longest=300, step_tokens=5000), "cpu", available)
    assert (plan.row_tokens, plan.recomputed) == (tokens, recomputed)
    assert plan.estimated_bytes <= available
    assert plan.reason


def test_a_plan_that_cannot_fit_says_so():
    plan = make(SHARED, COST, Need(longest=300, step_tokens=5000), "cpu", 1000)
    assert (plan.row_tokens, plan.recomputed) == (300, 10)
    assert "may not fit" in plan.reason


def test_wishes_are_kept():
    need = Need(longest=300, step_tokens=5000, row_tokens=900, recompute="all")
    assert (plan := make(SHARED, COST, need, "cpu", 10**9)).row_tokens == 900
    assert plan.checkpointing == "all"
    assert make(SHARED, COST, Need(300, 5000, 900, "off"), "cpu", 1000).recomputed == 0


def test_plans_get_smaller_until_nothing_is_left():
    plan, seen = make(SHARED, COST, Need(300, 5000), "cpu", 10**9), []
    while plan is not None:
        seen.append((plan.row_tokens, plan.recomputed))
        plan = plan.smaller(300)
    assert seen == [(4096, 0), (2048, 0), (1024, 0), (512, 0), (300, 0), (300, 10)]
