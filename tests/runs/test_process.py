"""Runs as real processes: they outlive who started them, are stopped alone, and say why they failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arriero.errors import ArrieroError, UsageError
from arriero.runs import Metrics, Planning, Record, State, listed, log_tail, start, state_of, stop
from arriero.runs.process import WAIT
from tests.conftest import train_tiny

OPTIONS = {"batch_size": 4, "precision": "float32", "learning_rate": 1e-05, "eval_fraction": 0.0}
STARTER = """
import sys
from pathlib import Path
from arriero.runs import listed, start
start(listed()[0])
print("started", flush=True)
sys.stdin.read()
"""


def until(found, what=lambda value: value):
    """Look until it is so; the test's own time limit ends this."""
    while not what(value := found()):
        time.sleep(0.05)
    return value


def ended(record: Record) -> State:
    return until(lambda: state_of(record), lambda state: not state.active)


def steps(record: Record) -> Metrics:
    metrics = Metrics(record.directory / "metrics.jsonl")
    metrics.update()
    return metrics


@pytest.fixture
def planned(home, rows_file, model_dir, tmp_path):
    """A run that nobody has started, of so many epochs of two steps."""

    def make(epochs: float, **more) -> Record:
        options = {**OPTIONS, "epochs": epochs, **more}
        record = Record(
            directory=tmp_path / "run",
            data=str(rows_file),
            model=str(model_dir),
            system="Be “甄嬛”: -1",
            options=options,
        )
        record.save()
        return record

    return make


def test_a_run_of_the_command_line_is_listed_as_it_was_asked_for(home, rows_file, model_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(rows_file.parent)
    train_tiny(Path(rows_file.name), model_dir, tmp_path / "run", epochs=1)
    (record,) = listed()
    assert (record.directory, record.data, record.model) == (tmp_path / "run", str(rows_file), str(model_dir))
    assert (record.system, record.options["epochs"], record.workers) == ("Be Killa.", 1, 1)
    assert state_of(record) == State("finished")


@pytest.mark.slow
def test_a_run_outlives_a_killed_server_is_stopped_and_goes_on_to_its_end(planned):
    record = planned(1000, save_steps=1000)
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout.readline() == "started\n"
        server.kill()
    until(lambda: steps(record).step)
    assert state_of(record).name == "running"
    with pytest.raises(UsageError, match="is being trained already"):
        start(record)
    stop(record)
    assert ended(record) == State("stopped", exit_code=130), log_tail(record)
    at = steps(record).step
    assert 0 < at < 2000
    start(record, resume=True)
    until(lambda: steps(record).step > at)
    stop(record)
    ended(record)
    assert [line["step"] for line in steps(record).lines] == list(range(1, steps(record).step + 1))


def fields(record: Record) -> dict:
    return {name: getattr(record, name) for name in Record.__dataclass_fields__}


def test_a_run_ends_in_an_adapter_and_its_log_says_so(planned):
    record = start(planned(1))
    assert ended(record) == State("finished"), log_tail(record)
    assert listed()[0].system == "Be “甄嬛”: -1"
    assert listed()[0].options == record.options, "through the configuration file and back"
    # its last line follows the end of the run, which the lock's release is
    until(lambda: "\n".join(log_tail(record)), lambda log: "2 steps on 8 samples" in log)


def test_a_run_that_cannot_begin_says_why_and_leaves_no_directory(planned):
    record = start(planned(1, batch_size=0))
    assert ended(record) == State("failed", exit_code=2)
    assert "batch_size must be at least 1, got 0" in "\n".join(log_tail(record))
    assert not record.directory.exists()


def test_a_stop_while_the_run_is_starting_ends_it(planned):
    record = start(planned(1000))
    until(lambda: (record.folder / ".alive").read_text())
    stop(record)
    assert ended(record).name == "gone", "nothing was there to be saved"


def test_a_stop_in_the_first_moments_is_not_lost(tmp_path):
    """The shell around a run caught the signal before there was a run to get it, 7 times of 400: the run went on."""
    for microseconds in range(0, 2000, 4):
        command = ["/bin/sh", "-c", WAIT, str(tmp_path / "exit"), "sleep", "60"]
        with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as shell:
            began = time.perf_counter_ns()
            while time.perf_counter_ns() - began < 1000 * microseconds:  # shorter than any sleep
                pass
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(timeout=30)


def test_a_killed_run_is_stopped_and_nobody_is_signalled_for_it(planned):
    """The number of a process that is gone may be another's: it was asked to end."""
    record = planned(1)
    (record.directory / "checkpoints").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        (record.directory / ".lock").write_text(f"process {other.pid} (sleep 60)")
        (record.folder / ".alive").write_text(str(other.pid))
        assert state_of(record).name == "stopped"
        with pytest.raises(UsageError, match="run is not running"):
            stop(record)
        assert other.poll() is None
        other.kill()


@pytest.mark.slow
def test_a_run_of_a_terminal_is_stopped_alone(planned):
    """SIGINT goes to the process that holds the lock, not to its group: that may be anybody's shell."""
    record = planned(1000)
    command = [sys.executable, "-m", "arriero.cli", "train", record.data, "--model", record.model]
    command += ["--output", str(record.directory), "--precision", "float32", "--epochs", "1000", "--batch-size", "4"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until(lambda: steps(record).step)
        assert os.getpgid(process.pid) == os.getpgid(0)
        stop(listed()[0])
        assert process.wait() == 130
    assert ended(record).name == "stopped"


def test_a_run_of_several_workers_is_not_stopped_from_here(planned):
    from arriero.locks import held

    record = Record(**{**fields(planned(1)), "workers": 4})
    with held(record.directory / ".lock", print), pytest.raises(UsageError, match="has 4 workers"):
        stop(record)


@pytest.mark.slow
def test_a_plan_is_what_the_run_then_does(planned):
    record = planned(2.5, eval_fraction=0.3)
    plan = until(Planning(record).result)
    assert "short measurement" in plan["speed_source"]
    assert not record.directory.exists()
    start(record)
    assert ended(record) == State("finished"), log_tail(record)
    from arriero.runs.state import report_of

    report = report_of(record)
    assert (plan["steps"], plan["samples"]) == (report["result"]["steps"], report["result"]["samples"])
    assert plan["held_out"] == report["held_out"]
    assert plan["rows"] == plan["samples"] + plan["held_out"] + plan["dropped"] == 8
    again = until(Planning(record).result)
    assert again["speed_source"] == f"the run {record.directory} of the same model"
    assert again["speed"] == report["result"]["computed_tokens_per_second"]


@pytest.mark.slow
def test_a_plan_of_what_cannot_be_says_why(planned):
    record = planned(1, max_length=3)
    with pytest.raises(ArrieroError, match=r"^rows.json: no row is left of 8; the first: \d+ tokens, the limit is 3$"):
        until(Planning(record).result)


def test_the_list_of_runs_needs_no_torch():
    code = "import sys, arriero.runs, arriero.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
