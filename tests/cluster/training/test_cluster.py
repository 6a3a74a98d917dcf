"""Training on a real Ray cluster of this machine: kills, Ctrl-C, faults, and the adapter that torchrun writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import psutil
import pytest
from safetensors.torch import load_file

from arriero.cli.main import main
from arriero.cluster.connect import connect
from arriero.cluster.training import driver
from arriero.errors import ArrieroError
from tests.cluster.training.killing import KILL_AFTER, KillingActor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "arriero.cli"]
RAY = ["--ray", "local", "--workers", "2"]
SAVE_STEPS, STEPS = 2, 12
OPTIONS = ["--epochs=6", "--batch-size=4", "--precision=float32", f"--save-steps={SAVE_STEPS}", "--learning-rate=1e-3"]


@pytest.fixture(scope="module", autouse=True)
def cluster(own_clusters):
    """One that all runs of this process use: `--ray local` takes a connection that there is."""
    own_clusters.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # between two checkpoints; 2 by default
    with connect("local", cpus=2):
        yield


def command(rows_file, model_dir, output, *more):
    start = ["train", str(rows_file), "--model", str(model_dir), "--json", "--output", str(output)]
    return [*start, "--eval-fraction", "0.3", "--report-answers", "0", *OPTIONS, *more]


def run(arguments, capsys):
    """The report of a run in this process."""
    status = main(arguments)
    output, errors = capsys.readouterr()
    assert status == 0, errors
    return json.loads(output)


@pytest.fixture(scope="module")
def of_torchrun(rows_file, model_dir, tmp_path_factory):
    """What two workers of torchrun write."""
    output = tmp_path_factory.mktemp("torchrun") / "run"
    arguments = [*TORCHRUN, *command(rows_file, model_dir, output)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return output


def steps_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def is_the_run_of(output, other):
    assert (output / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    assert steps_of(output) == list(range(1, STEPS + 1)), "every step once"
    report = json.loads((output / "report.json").read_text())
    assert report["result"]["output"] == str(output)


def test_torchrun_s_workers_learn_what_one_process_does(rows_file, model_dir, tmp_path, of_torchrun, capsys):
    run(command(rows_file, model_dir, tmp_path / "one"), capsys)
    one, two = (load_file(output / "adapter_model.safetensors") for output in (tmp_path / "one", of_torchrun))
    for name, tensor in one.items():
        assert (two[name] - tensor).norm() <= 1e-5 * tensor.norm()


def test_a_worker_that_is_killed_is_replaced_and_the_adapter_is_torchrun_s(
    rows_file, model_dir, tmp_path, of_torchrun, capsys, monkeypatch
):
    monkeypatch.setattr(driver, "ProgressActor", KillingActor)
    storage = ["--storage", str(tmp_path / "storage")]
    report = run(command(rows_file, model_dir, tmp_path / "run", *RAY, *storage), capsys)
    assert KILL_AFTER - 2 * SAVE_STEPS < report["resumed_from"] < KILL_AFTER
    is_the_run_of(tmp_path / "run", of_torchrun)


def test_workers_lost_too_often_leave_a_checkpoint_that_the_same_command_goes_on_from(
    rows_file, model_dir, tmp_path, of_torchrun, capsys, monkeypatch
):
    arguments = command(rows_file, model_dir, tmp_path / "run", *RAY, "--max-failures", "0")
    with monkeypatch.context() as patch:
        patch.setattr(driver, "ProgressActor", KillingActor)
        assert main(arguments) == ArrieroError.exit_code
    errors = capsys.readouterr().err
    assert "workers were lost more often than --max-failures 0 allows" in errors
    assert "the same command with --resume goes on from the last checkpoint; --max-failures N for more" in errors
    assert "Traceback" not in errors
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")]
    assert KILL_AFTER - 2 * SAVE_STEPS < max(steps) < KILL_AFTER
    assert run([*arguments, "--resume"], capsys)["resumed_from"] == max(steps)
    is_the_run_of(tmp_path / "run", of_torchrun)


def test_control_c_keeps_a_checkpoint_that_the_same_command_goes_on_from(
    rows_file, model_dir, tmp_path, of_torchrun, capsys, monkeypatch
):
    """With weights shared out, which changes no bit. The command's cluster ends with it."""
    monkeypatch.delenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S")  # seconds between two checkpoints, to stop in
    arguments = command(rows_file, model_dir, tmp_path / "run", *RAY, "--shard", "on")
    start = [sys.executable, "-m", "arriero.cli"]
    with subprocess.Popen([*start, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 1 of 12"):
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, ""), errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not psutil.wait_procs(children, timeout=30)[1]
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")]
    assert 1 <= max(steps) < STEPS
    assert run([*arguments, "--resume"], capsys)["resumed_from"] == max(steps)
    is_the_run_of(tmp_path / "run", of_torchrun)


def test_an_error_of_ours_is_raised_once_and_not_tried_again(rows_file, model_dir, tmp_path, capsys):
    assert main(command(rows_file, model_dir, tmp_path / "run", *RAY, "--target-modules", "nonsense")) == 2
    errors = capsys.readouterr().err
    assert errors.count("no layers named nonsense") == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
