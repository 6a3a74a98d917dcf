"""Base weights sharded among workers: the gradients, checkpoints and adapters of weights that are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext

import hypothesis
import pytest
from hypothesis import strategies as st
from torch import distributed

from arriero.errors import UsageError
from arriero.training import sharding
from arriero.training.options import TrainOptions
from arriero.training.planning.plan import kept_bytes
from arriero.training.progress import stops_on_signals
from arriero.training.setup.step_setup import set_up
from arriero.training.steps import Worker
from tests.training.test_exactness import GROUP, agree, build, steps_of

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


@pytest.fixture
def alone():
    """A process group of this process: sharding with nobody to share with."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    build.cache_clear()
    yield
    build.cache_clear()
    distributed.destroy_process_group()


def sharded_model():
    model = build("Llama")
    sharding.shard(model)
    return model


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_pieces_are_found_in_shards_and_read_weights_when_called(alone):
    """They kept the tensors that a module had as they were found: mixed torch.Tensor and DTensor."""
    whole = dict(steps_of(build("Llama")).kernels.counts)
    build.cache_clear()
    model = sharded_model()
    setup = set_up(model, GROUP, 10, TrainOptions(), None)
    assert dict(setup.steps.kernels.counts) == whole
    assert setup.verification.passed
    assert setup.steps.plan.fused
    agree(model, setup.steps, GROUP)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module .* returned a view")
def test_gathered_weights_are_not_counted_as_kept(alone):
    """A plan took them for what a token costs."""
    model = build("Llama")
    steps = steps_of(model)
    kept = []
    for share_out in (nullcontext, sharding.shard):
        share_out(model)
        with steps.active(), kept_bytes(model) as found:
            steps.loss(GROUP)
        kept.append(sum(found.values()))
    assert kept[0] == kept[1]


@hypothesis.given(st.integers(1, 9), st.integers(1, 5))
def test_every_row_counts_once_and_sharded_workers_compute_equally_many(rows, count):
    """With a row less, a worker left the others waiting for its part of the weights."""
    steps = steps_of(build("Llama"))
    parts = [[GROUP[number % 4]] for number in range(rows)]
    for steps.sharded in (True, False):
        mine = [steps.rows_of(Worker(rank, count), parts) for rank in range(count)]
        counted = [part for found in mine for part, counts in found if counts]
        assert sorted(map(id, counted)) == sorted(map(id, parts))
        assert all(mine)
        assert not steps.sharded or len(set(map(len, mine))) == 1


def test_what_cannot_be_shared_out_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="--shard on: there is one worker") as caught:
        sharding.chosen("on", lambda: 0)
    assert "torchrun" in caught.value.hint
    assert not sharding.chosen("auto", lambda: 1 << 60)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sharding.chosen("on", lambda: 0)
    assert not sharding.chosen("auto", lambda: 1 << 60, four_bits=True)
    with pytest.raises(UsageError, match="load_in_4bit must be off where weights are sharded"):
        TrainOptions(shard="on", load_in_4bit=True)


@pytest.mark.slow
def test_shards_give_the_gradients_of_whole_weights():
    """Two real workers, several rows each and not equally many, layers recomputed, and a base in 16 bits."""
    done = subprocess.run([*LAUNCH, "tests.training.shards"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    *exact, rounded = json.loads(done.stdout.splitlines()[-1])
    assert len(exact) == 3
    for found in exact:
        assert found["apart"] < 1e-5
        assert found["checked"]
        assert found["share"] == 0.5
    assert rounded["apart"] < 3e-2
    assert rounded["checked"]


RUN = """
import os, signal, sys
from pathlib import Path
from arriero.errors import InterruptedRun
from arriero.training import train

rows, model, output, shard, act = sys.argv[1:]
other = Path(output).with_suffix(".pid")
if os.environ["RANK"] == "1":
    other.write_text(str(os.getpid()))

def on_step(report):
    if report.step == 4 and act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if report.step == 3 and act == "interrupt":
        os.kill(int(other.read_text()), signal.SIGINT)

try:
    train(rows, output=output, model=model, on_step=on_step, resume=act == "resume", shard=shard, epochs=6,
          batch_size=4, precision="float32", learning_rate=0.01, eval_fraction=0.3, save_steps=1, keep="best",
          dropout=0.1)
except InterruptedRun as stopped:
    print(f"{stopped.message}\\n", end="")
"""


def two_workers(output, rows_file, model_dir, shard="on", act="run"):
    arguments = [*LAUNCH, "tests.training.inline", RUN, rows_file, model_dir, output, shard, act]
    done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode == 0) == (act != "kill"), done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_sharded_run_killed_and_resumed_writes_what_one_with_whole_weights_does(rows_file, model_dir, tmp_path):
    """Bit for bit; a checkpoint of one worker alone once let its gathered weights go, and the next step hung."""
    two_workers(tmp_path / "whole", rows_file, model_dir, "off")
    two_workers(tmp_path / "shards", rows_file, model_dir, act="kill")
    assert not (tmp_path / "shards" / "arriero.json").exists()
    two_workers(tmp_path / "shards", rows_file, model_dir, act="resume")
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "shards")]
    assert adapters[0] == adapters[1]
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "shards")]
    assert [report["result"]["resumed_from"] for report in reports] == [None, 3]
    assert reports[0]["answers"] == reports[1]["answers"]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_after_the_same_step(rows_file, model_dir, tmp_path):
    """The others waited for it in the next step, until they were killed."""
    lines = two_workers(tmp_path / "run", rows_file, model_dir, "off", act="interrupt").split("\n")
    (said,) = {line for line in lines if line}
    step = max(int(path.name.split("-")[1]) for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*"))
    assert said.startswith(f"stopped at step {step} of 12")


def test_a_signal_that_a_launcher_passes_on_is_the_same_signal(monkeypatch):
    """Ctrl-C reaches workers from the terminal and from torchrun: twice, which was taken for a wish to end at once."""
    for count, at_once in (("2", False), ("1", True)):
        monkeypatch.setenv("WORLD_SIZE", count)
        stop = threading.Event()
        with pytest.raises(KeyboardInterrupt) if at_once else nullcontext(), stops_on_signals(stop):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
