"""One run, one directory: real processes and kills, and nothing left of a run that did not begin."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from arriero.prompt import Contract
from tests.conftest import train_tiny
from tests.training.test_resume import command


def run(arguments):
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture
def running(rows_file, model_dir, tmp_path):
    """A run that is stopped, as by Ctrl-Z, after its first step; its process and its command."""
    arguments = command(rows_file, model_dir, tmp_path / "run", "--save-steps", "1")
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("step 1 of 60") for line in process.stderr)
        process.send_signal(signal.SIGSTOP)
        yield process, arguments
        process.kill()


@pytest.mark.slow
def test_a_second_run_is_refused_by_name_and_goes_on_once_the_first_is_killed(running, tmp_path):
    """With --resume both wrote into one directory."""
    process, arguments = running
    for more in ([], ["--resume"]):
        refused = run([*arguments, *more])
        assert refused.returncode == 2, refused.stderr
        assert f"{tmp_path / 'run'} is being written by process {process.pid} (" in refused.stderr
        assert "arriero.cli train" in refused.stderr
    process.kill()
    process.wait()
    done = run([*arguments, "--resume"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 60
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_failure_between_claiming_and_the_first_step_leaves_nothing(rows_file, model_dir, tmp_path, monkeypatch):
    """The next try was told that the directory already holds a run."""

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Contract, "of", full)
    with pytest.raises(MemoryError):
        train_tiny(rows_file, model_dir, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_first_step_leaves_no_tracker_behind(rows_file, model_dir, tmp_path):
    """The tracker's directory stayed, and the next try was told that this is no training output."""

    def fail(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_tiny(rows_file, model_dir, tmp_path / "run", report_to=("tensorboard",), on_step=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_else_in_it_is_left_as_it_is(rows_file, model_dir, tmp_path):
    from arriero.errors import UsageError

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a training output"):
        train_tiny(rows_file, model_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_of_several_workers_the_first_owns_the_directory(rows_file, model_dir, tmp_path):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    arguments = command(rows_file, model_dir, tmp_path / "run", "--save-steps", "1")
    done = run([*start, *arguments[2:]])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "arriero.json").is_file()
    assert not (tmp_path / "run" / ".lock").exists()
