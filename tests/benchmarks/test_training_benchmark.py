"""`python -m benchmarks.training`, run as a person would, with models that are small enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from arriero.training.graphs.bucket import TOKENS, Bucket, up
from arriero.training.pack import fill, pack
from benchmarks.training import __main__ as training
from benchmarks.training.__main__ import FEW_WARM_UPS, WARM_UPS, run
from benchmarks.training.jobs import SAMPLES, Job, Workload, synthetic

ROOT = Path(__file__).parents[2]
VARIANTS = [
    "tutorial", "no recomputation", "loss positions only", "packed", "shared prefix", "fused pieces", "arriero train",
]  # fmt: skip
FIGURES = {
    "samples_per_second", "logical_tokens_per_second", "computed_tokens_per_second", "share_computed", "share_useful",
    "others", "peak_memory_bytes", "first_loss", "seconds", "plan", "allocator", "ratio",
}  # fmt: skip
ROUNDING = 5e-3  # of a loss in bfloat16, relative
SECONDS = 400  # on a machine that does other things, too


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT
    )


def document(*arguments: object) -> dict:
    ended = benchmark(*arguments, "--rounds", 1, "--json")
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def many_rows_file(tmp_path_factory):
    """Enough rows for three optimizer steps."""
    answers = ["me", "you", "all of us", "no one", "Killa", "骆驼", "Tomás", "I am"]
    rows = [{"instruction": f"who {index}?", "input": "", "output": answers[index % 8]} for index in range(48)]
    file = tmp_path_factory.mktemp("benchmark") / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def checked(found: dict) -> dict:
    """The figures of a workload's variants, once they are complete and their first steps agree."""
    losses = [figures["first_loss"] for figures in found.values()]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=ROUNDING)
    for figures in found.values():
        assert set(figures) >= FIGURES
        assert figures["samples_per_second"]["low"] > 0
        assert figures["peak_memory_bytes"] > 100e6
        assert figures["share_computed"] >= figures["share_useful"] >= 0
    assert found["tutorial"]["ratio"] == 1
    return found


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_every_variant_computes_the_same_first_step(many_rows_file, model_dir):
    found = document(many_rows_file, "--model", model_dir, "--system", "Be Killa.", "--steps", 2)
    variants = checked(found["workloads"]["rows.json"])
    assert list(variants) == VARIANTS
    assert variants["tutorial"]["computed_tokens_per_second"] > variants["tutorial"]["logical_tokens_per_second"]
    assert variants["packed"]["computed_tokens_per_second"] == variants["packed"]["logical_tokens_per_second"]
    for name in ("shared prefix", "fused pieces", "arriero train"):
        assert variants[name]["computed_tokens_per_second"] < variants[name]["logical_tokens_per_second"]
    assert all(len(seconds) == 2 for figures in variants.values() for seconds in figures["seconds"])
    assert found["model"] == {"name": "tiny", "body": 18_592, "head": 262 * 32}
    assert found["matrix_tflops"]["before"] > 0


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_what_runs_on_a_gpu_runs_tiny_on_a_cpu():
    found = document("--device", "cuda", "--tiny", "--steps", 1)
    assert set(found["workloads"]) == {"rows as long as the tutorial's", "full rows of 96 tokens"}
    for variants in found["workloads"].values():
        assert list(checked(variants)) == ["tutorial", "arriero train", "without CUDA graphs"]
        assert variants["arriero train"]["launched"]["launches"] > 100
        assert variants["arriero train"]["checked"]["worst"] < 3
        assert len(variants["arriero train"]["seconds"][0]) == 1


def test_on_a_gpu_counted_steps_are_replays_of_cuda_graphs():
    """Two counted steps after one of warming up had no size twice, and a graph is replayed from the third time on."""
    steps = synthetic(12, 128_256, WARM_UPS).steps
    assert len(steps) == WARM_UPS + 12
    rows = [pack(step, share=True) for step in steps]
    buckets = [Bucket.of(fill(row, up(row.computed, TOKENS))) for row in rows]
    replays = [buckets[:number].count(bucket) >= 2 for number, bucket in enumerate(buckets)]
    assert sum(replays[WARM_UPS:]) > 6


def test_the_tutorial_has_the_counted_steps_after_fewer_to_warm_up():
    whole = synthetic(12, 128_256, WARM_UPS)
    less = whole.warmed_up_by(FEW_WARM_UPS)
    assert less.steps[less.warm_ups :] == whole.steps[WARM_UPS:]
    assert less.steps[0] == whole.steps[0], "first losses are compared"
    assert len(less.features) == SAMPLES * len(less.steps) == SAMPLES * (FEW_WARM_UPS + 12)
    assert less.features[-12 * SAMPLES :] == whole.features[-12 * SAMPLES :]
    assert whole.warmed_up_by(WARM_UPS + 1) == whole


def test_what_is_measured_is_kept_when_the_rest_takes_too_long(tmp_path, monkeypatch):
    """The document was printed when all variants were through: one too many, and no figure was left."""

    def one(job, _folder):
        if job.variant == "tutorial":
            raise KeyboardInterrupt
        steps = len(job.workload.steps) - job.workload.warm_ups
        counted = {"seconds": [2.0] * steps, "computed": [500] * steps, "head_positions": [100] * steps}
        return {**counted, "others": 0.0, "peak_memory": 10**9, "first_loss": 5.0}

    monkeypatch.setattr(training, "run", one)
    monkeypatch.setattr(training, "matrix_rate", lambda _device: 1e12)
    file, variants = tmp_path / "partial.json", ["arriero train", "without CUDA graphs", "tutorial"]
    command = ["--device", "cuda", "--tiny", "--workloads", "short", "--variants", *variants, "--partial", str(file)]
    monkeypatch.setattr("sys.argv", ["training", *command, "--steps", "1", "--rounds", "1"])
    with pytest.raises(KeyboardInterrupt):
        training.measure(training.parsed(), tmp_path)
    (found,) = json.loads(file.read_text())["workloads"].values()
    assert list(found) == variants[:2]
    assert found["arriero train"]["computed_tokens_per_second"] == 250
    assert found["arriero train"]["ratio"] is None, "there is nothing to compare it with"


@pytest.mark.slow
def test_a_variant_that_fails_leaves_its_error(tmp_path, capfd):
    job = Job("no such", Workload("none", [], []), "cpu", None, {})
    assert run(job, tmp_path) == {"error": "ValueError: no variant 'no such'"}
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
def test_both_recipes_are_measured_on_the_same_held_out_rows(many_rows_file, model_dir):
    some = ("--variants", "packed", "--steps", 1, "--quality", 16, "--learning-rate", 0.01)
    found = document(many_rows_file, "--model", model_dir, "--system", "Be Killa.", *some)["quality"]
    assert [(run["recipe"], run["seed"]) for run in found["runs"]] == [
        ("tutorial", 1), ("arriero train", 1), ("tutorial", 2), ("arriero train", 2),
    ]  # fmt: skip
    assert found["steps"] == 1
    for each in found["runs"]:
        assert each["loss_tokens"] == found["base"]["loss_tokens"]
        assert each["nll"] < found["base"]["nll"]


@pytest.mark.slow
def test_without_its_data_it_says_so_and_ends(tmp_path):
    ended = benchmark(tmp_path / "none.json")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "skipped: there is no file" in ended.stderr
