"""Interrupted runs: real processes, real signals and kills, and the same adapter in the end."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

OPTIONS = ["--epochs", "30", "--batch-size", "4", "--precision", "float32", "--learning-rate", "0.001"]


def command(rows_file, model_dir, output, *more):
    start = [sys.executable, "-m", "arriero.cli", "train", str(rows_file), "--model", str(model_dir), "--json"]
    return [*start, "--output", str(output), "--eval-fraction", "0", *OPTIONS, *more]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_a_checkpoint_and_resume_ends_where_the_whole_run_does(rows_file, model_dir, tmp_path, number):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    process = subprocess.Popen(
        command(rows_file, model_dir, stopped), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("step 1 of 60"):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output == ""
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (stopped / "arriero.json").exists(), "an unfinished run must not look finished"
    (checkpoint,) = (stopped / "checkpoints").glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 1 <= step < 60

    reports = []
    for arguments in (command(rows_file, model_dir, stopped, "--resume"), command(rows_file, model_dir, whole)):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["steps"] == 60
        reports.append(document)
        assert document["resumed_from"] == (step if str(stopped) in arguments else None)
    assert reports[0]["train_loss"] == reports[1]["train_loss"], (
        "the mean is over all steps, not those since the resume"
    )
    lines = [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(1, 61)), "every step once"
    resumed, straight = (load_file(path / "adapter_model.safetensors") for path in (stopped, whole))
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], straight[name]) for name in resumed)


def check_kills(rows_file, model_dir, folder, count, **options):
    """Processes killed at `count` moments of a run and resumed: each ends where the uninterrupted run does."""
    script = [sys.executable, "-m", "tests.training.kill_points", str(rows_file), str(model_dir), str(folder)]
    script += [str(count), json.dumps(options)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert len(outcomes["killed"]) == count
    assert all(run["killed"] for run in outcomes["killed"]), "every number is a moment of the run"
    assert {run["hash"] for run in outcomes["killed"]} == {outcomes["whole"]}
    assert all(run["steps"] == outcomes["steps"] for run in outcomes["killed"]), "every step and evaluation once"


def test_a_run_killed_at_any_moment_ends_in_the_same_adapter(rows_file, model_dir, tmp_path):
    """SIGKILL at file operations spread over the run: before the first checkpoint, within one, at the end."""
    check_kills(rows_file, model_dir, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_each_of_many_moments(rows_file, model_dir, tmp_path):
    check_kills(rows_file, model_dir, tmp_path, 40)


def figures(output):
    """What a run has come to: its adapter, its steps and evaluations in order, what it reports."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((output / "report.json").read_text())
    return (
        hashlib.sha256((output / "adapter_model.safetensors").read_bytes()).hexdigest(),
        [(line["step"], line.get("eval_loss")) for line in lines],
        {name: report["result"][name] for name in ("steps", "epochs", "train_loss", "eval_loss")},
        report["best"],
    )


@pytest.mark.parametrize(
    ("step", "options"),
    # four steps an epoch: in mid-epoch, at an epoch's end, in mid-epoch with an evaluation due
    [(5, {"early_stopping_patience": 1}), (8, {"early_stopping_patience": 1}), (2, {"eval_steps": 2, "epochs": 1})],
)
def test_an_interruption_changes_no_evaluation(rows_file, model_dir, tmp_path, step, options):
    """In mid-epoch it made one more, which could be the best; one that was due after that step was lost."""
    from arriero.errors import InterruptedRun
    from tests.conftest import train_tiny

    options = {"eval_fraction": 0.3, "epochs": 3, "batch_size": 2, "learning_rate": 0.3, **options}
    with pytest.raises(InterruptedRun, match=f"step {step} of"):
        train_tiny(rows_file, model_dir, tmp_path / "run", on_step=lambda report: report.step == step - 1, **options)
    train_tiny(rows_file, model_dir, tmp_path / "run", resume=True, **options)
    assert figures(tmp_path / "run") == figures(train_tiny(rows_file, model_dir, tmp_path / "whole", **options))


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2.5, "lr_scheduler_type": "constant"},
        {"epochs": 20, "eval_fraction": 0.3, "eval_steps": 1, "save_steps": 1, "early_stopping_patience": 1},
        {"eval_fraction": 0.3, "eval_steps": 1},
        {"eval_fraction": 0.3, "save_steps": 2, "learning_rate": 0.3},
    ],
    ids=["half an epoch", "out of patience", "evaluated", "to be evaluated"],
)
def test_training_that_had_ended_is_not_gone_on_with(rows_file, model_dir, tmp_path, options):
    """Ended by a kill before arriero.json was written; it made "step 6 of 5", and reported no held-out loss."""
    from tests.conftest import train_tiny

    output = train_tiny(rows_file, model_dir, tmp_path / "run", **options)
    whole = figures(output)
    (output / "arriero.json").unlink()
    train_tiny(rows_file, model_dir, output, resume=True, **options)
    assert figures(output) == whole


def test_a_run_from_before_an_option_existed_is_resumed(rows_file, model_dir, tmp_path):
    """Its record lacks the option, which was taken for another value than the default."""
    from tests.conftest import train_tiny

    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1)
    record = tmp_path / "run" / "checkpoints" / "run.json"
    earlier = json.loads(record.read_text())
    del earlier["adapter"], earlier["options"]["cuda_graphs"], earlier["options"]["from_adapter"]
    record.write_text(json.dumps(earlier))
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1, resume=True)


def test_another_data_set_is_not_resumed_into(rows_file, model_dir, tmp_path):
    from arriero.errors import UsageError
    from tests.conftest import ROWS, train_tiny

    other = tmp_path / "rows.json"
    other.write_text(json.dumps(ROWS[:6]))
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match=r"holds a run that differs: data was '[0-9a-f]+', is now '[0-9a-f]+'"):
        train_tiny(other, model_dir, tmp_path / "run", epochs=1, resume=True)
