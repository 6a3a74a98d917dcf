"""Training on Ray, without Ray: what a cluster has to have, where checkpoints are, what the driver makes of steps."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import arriero
from arriero.cluster.connect import Node
from arriero.cluster.training.driver import _Driver
from arriero.cluster.training.fit import ClusterOptions
from arriero.cluster.training.resources import resources_per_worker
from arriero.cluster.training.storage import RunStorage
from arriero.errors import AccessError, ContextLengthError, DataError, NotFoundError, UsageError
from arriero.training import StepReport
from arriero.training.output import directory
from tests.conftest import train_tiny


def node(cpus=0.0, gpus=0.0, missing=()):
    return Node("10.0.0.1", cpus, gpus, True, {}, missing)


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 12))
def test_workers_get_the_largest_share_of_the_cpus_that_there_is_room_for(cpus, workers):
    """Three CPUs and three others are no place for three workers with two each: Ray would wait for ever."""
    nodes = [node(cpus=float(count)) for count in cpus]
    if sum(cpus) < workers:
        with pytest.raises(UsageError, match=f"{workers} workers need a CPU each, and the cluster has {sum(cpus)}"):
            resources_per_worker(nodes, workers)
        return
    share = resources_per_worker(nodes, workers)["CPU"]
    assert sum(count // share for count in cpus) >= workers
    assert sum(count // (share + 1) for count in cpus) < workers


def test_a_gpu_for_each_where_there_are_any():
    assert resources_per_worker([node(cpus=4), node(cpus=16, gpus=4)], 3) == {"GPU": 1, "CPU": 4}
    with pytest.raises(UsageError, match="3 workers need a GPU each, and the cluster has 2") as caught:
        resources_per_worker([node(cpus=64), node(cpus=2, gpus=2)], 3)
    assert caught.value.hint == "--workers 2"


def test_a_node_that_will_not_train_may_lack_the_data():
    nodes = [node(cpus=4, missing=("/data/my.json",)), node(cpus=4, gpus=1)]
    assert resources_per_worker(nodes, 1)["GPU"] == 1
    with pytest.raises(NotFoundError, match=r"10\.0\.0\.1 has no /data/my.json"):
        resources_per_worker(nodes[:1], 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 2}, "--workers is for training on Ray"),
        ({"storage": "s3://bucket"}, "--storage is for training on Ray"),
        ({"ray": "local", "workers": "1:4"}, "--workers takes a number of at least 1, got '1:4'"),
        ({"ray": "local", "workers": 0}, "--workers takes a number of at least 1, got 0"),
        ({"ray": "local", "max_failures": -1}, "--max-failures takes a number of at least 0, got -1"),
        ({"ray": "local", "rnak": 4}, "rank"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(tmp_path, rows_file, model_dir, options, said):
    with pytest.raises(UsageError, match=said):
        arriero.train(rows_file, output=tmp_path / "run", model=model_dir, **options)
    assert list(tmp_path.iterdir()) == []


def test_faults_of_the_data_are_found_before_ray_is_asked(tmp_path, model_dir):
    with pytest.raises((DataError, NotFoundError)):
        arriero.train(tmp_path / "none.json", output=tmp_path / "run", model=model_dir, ray="10.255.0.1:1")


def test_a_run_remembers_where_its_checkpoints_are(tmp_path):
    output = tmp_path / "run"
    (output / directory.CHECKPOINTS).mkdir(parents=True)
    with pytest.raises(UsageError, match="several machines need a place for checkpoints"):
        RunStorage.of(output, None, single_machine=False)
    first = RunStorage.of(output, "s3://bucket/runs", single_machine=False)
    assert RunStorage.of(output, None, single_machine=False) == first
    with pytest.raises(UsageError, match="keeps its checkpoints in s3://bucket/runs, not in s3://other"):
        RunStorage.of(output, "s3://other", single_machine=False)


def test_a_run_of_one_machine_is_not_begun_anew_on_ray(tmp_path, rows_file, model_dir):
    """It would have started from the beginning, without a word."""
    output = train_tiny(rows_file, model_dir, tmp_path / "run")
    with pytest.raises(UsageError, match="was not begun on Ray"):
        RunStorage.of(output, str(tmp_path), single_machine=True)


def test_storage_that_cannot_be_written_is_found_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccessError, match=r"nothing can be written to .*file/runs"):
        RunStorage(str(tmp_path / "file" / "runs"), "run").check_writable()
    with pytest.raises(AccessError, match="nothing can be written to nowhere://x"):
        RunStorage("nowhere://x", "run").check_writable()
    RunStorage(str(tmp_path / "runs"), "run").check_writable()
    assert list((tmp_path / "runs").iterdir()) == []


def test_steps_that_are_made_again_are_in_the_metrics_once(tmp_path):
    """After a loss of workers the steps since the last checkpoint come a second time, or from its evaluation on."""
    driver = _Driver("", tmp_path, ClusterOptions("local"), {})
    reports = [StepReport(step, 4, 1.0, float(step), 0.1, 1.0, 1.0, 1.0, 1.0) for step in (1, 2, 3)]
    evaluated = StepReport(2, 4, 1.0, None, None, None, 1.0, 1.0, 1.0, eval_loss=9.0)
    seen = []
    again = [reports[1], evaluated, reports[2]]
    driver._receive([*reports[:2], evaluated, reports[2], *again, evaluated, reports[2]], seen.append, None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], "loss" in line) for line in lines] == [(1, True), (2, True), (2, False), (3, True)]
    assert len(seen) == 9


@pytest.mark.parametrize("error", [DataError("f", "bad", row=2, hint="h"), ContextLengthError(1, 2, 3)])
def test_errors_arrive_from_other_processes_as_they_were(error):
    """Those with arguments of their own could not be unpickled."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (copy.__dict__, str(copy)) == (error.__dict__, str(error))


def test_an_answer_to_a_step_ends_the_run_with_a_checkpoint(tmp_path, rows_file, model_dir):
    from arriero.errors import InterruptedRun

    kept = []
    with pytest.raises(InterruptedRun, match="stopped at step 3 of 6"):
        train_tiny(rows_file, model_dir, tmp_path, on_step=lambda step: step.step == 2, on_checkpoint=kept.append)
    assert kept == [3]
    assert (Path(tmp_path) / "checkpoints" / "checkpoint-3").is_dir()
