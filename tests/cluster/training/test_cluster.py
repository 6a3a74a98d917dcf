"""Training on a real Ray cluster of this machine: kills, Ctrl-C, faults, and the adapter that torchrun's workers write.

Each run is a process of its own, which takes its cluster along when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from safetensors.torch import load_file

CPUS = os.cpu_count() or 1
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(280),
    pytest.mark.skipif(
        CPUS < 4 and not os.environ.get("ARRIERO_RAY_TESTS"),
        reason="a cluster's own processes and two workers compete for fewer than 4 CPUs; ARRIERO_RAY_TESTS=1 runs them",
    ),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
RAY = ["--ray", "local", "--workers", "2"]
OPTIONS = ["--epochs=6", "--batch-size=4", "--precision=float32", "--save-steps=2", "--learning-rate=1e-3"]


def command(rows_file, model_dir, output, *more):
    start = [sys.executable, "-m", "arriero.cli", "train", str(rows_file), "--model", str(model_dir), "--json"]
    return [*start, "--output", str(output), "--eval-fraction", "0.3", "--report-answers", "0", *OPTIONS, *more]


def run(arguments):
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def of_torchrun(rows_file, model_dir, tmp_path_factory):
    """What two workers of torchrun write."""
    output = tmp_path_factory.mktemp("torchrun") / "run"
    run([*TORCHRUN, *command(rows_file, model_dir, output)[2:]])
    return output


def steps_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


def is_the_run_of(output, other):
    assert (output / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    assert steps_of(output) == list(range(1, 13)), "every step once"
    report = json.loads((output / "report.json").read_text())
    assert report["result"]["output"] == str(output)


def workers_of(process):
    """The pids of the training workers that a driver's cluster has."""
    names = [(child.pid, " ".join(child.cmdline())) for child in psutil.Process(process.pid).children(recursive=True)]
    return [pid for pid, name in names if "RayTrainWorker" in name]


def clusters_of(process):
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "raylet" in child.name()]


def test_torchrun_s_workers_learn_what_one_process_does(rows_file, model_dir, tmp_path, of_torchrun):
    run(command(rows_file, model_dir, tmp_path / "one"))
    one, two = (load_file(output / "adapter_model.safetensors") for output in (tmp_path / "one", of_torchrun))
    for name, tensor in one.items():
        assert (two[name] - tensor).norm() <= 1e-5 * tensor.norm()


def test_a_worker_that_is_killed_is_replaced_and_the_adapter_is_torchrun_s(rows_file, model_dir, tmp_path, of_torchrun):
    storage = ["--storage", str(tmp_path / "storage")]
    arguments = command(rows_file, model_dir, tmp_path / "run", *RAY, *storage)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        told = []
        for line in process.stderr:
            told.append(line)
            if line.startswith("step 4 of 12") and told.count(line) == 1:  # long before the last one
                psutil.Process(workers_of(process)[-1]).kill()
                clusters = clusters_of(process)
        report = process.stdout.read()
    assert process.returncode == 0, "".join(told)
    assert json.loads(report)["resumed_from"] in (2, 4, 6)
    is_the_run_of(tmp_path / "run", of_torchrun)
    assert not any(cluster.is_running() for cluster in clusters)


def test_control_c_keeps_a_checkpoint_that_the_same_command_goes_on_from(rows_file, model_dir, tmp_path, of_torchrun):
    """With weights shared out, which changes no bit."""
    arguments = command(rows_file, model_dir, tmp_path / "run", *RAY, "--shard", "on")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("step 1 of 12"):
                process.send_signal(signal.SIGINT)
                break
        output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (130, ""), errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")]
    assert 1 <= max(steps) < 12
    assert run([*arguments, "--resume"])["resumed_from"] == max(steps)
    is_the_run_of(tmp_path / "run", of_torchrun)


def test_an_error_of_ours_is_raised_once_and_not_tried_again(rows_file, model_dir, tmp_path):
    arguments = command(rows_file, model_dir, tmp_path / "run", *RAY, "--target-modules", "nonsense")
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("no layers named nonsense") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
