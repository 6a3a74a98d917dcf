"""Interrupted runs: a real process, a real signal, and the same adapter in the end."""

from __future__ import annotations

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

    # a process killed while it saved leaves a checkpoint that is not whole
    (stopped / "checkpoints" / "checkpoint-59").mkdir()
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
