"""What a run would cost: what it is reckoned from."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from arriero import runs
from arriero.training import TrainOptions, forecast
from arriero.training.planning.estimate import estimate
from tests.conftest import train_tiny


def test_memory_is_that_of_a_row_however_many_a_step_has(model_dir):
    """Eight billion weights and steps of 64 long examples were said to take 453 GB; a row of them takes 72."""

    def memory(**options):
        return estimate(model_dir, tokens=10, **options).memory_bytes

    assert memory(step_tokens=100_000) == memory(step_tokens=10_000_000) > memory(step_tokens=100)
    assert memory(step_tokens=10_000_000, row_tokens=100) == memory(step_tokens=100)
    assert memory(step_tokens=100, longest=500) == memory(step_tokens=500)


@pytest.fixture
def before(home, rows_file, model_dir, tmp_path):
    """A run of this machine."""
    train_tiny(rows_file, model_dir, tmp_path / "run", epochs=1)
    (record,) = runs.listed()
    return record


def test_the_speed_is_of_an_earlier_run_of_one_process_that_made_steps(before, rows_file, model_dir, monkeypatch):
    """Those of eight workers together were taken for one's; one that was only finished divided by zero."""

    def source():
        return forecast(rows_file, TrainOptions(precision="float32"), model=model_dir).speed_source

    assert source() == f"the run {before.directory} of the same model"
    file = before.directory / "report.json"
    report = json.loads(file.read_text())
    report["result"]["computed_tokens_per_second"] = 0.0
    file.write_text(json.dumps(report))
    assert "short measurement" in source()
    report["result"]["computed_tokens_per_second"] = 100.0
    file.write_text(json.dumps(report))
    assert "the run" in source()
    monkeypatch.setattr(runs, "listed", lambda: [replace(before, workers=8)])
    assert "short measurement" in source()


def test_without_sharing_every_token_is_computed(home, rows_file, model_dir):
    shared, alone = (
        forecast(rows_file, TrainOptions(prefix_sharing=how), model=model_dir, system="Be Killa, and brief.")
        for how in ("auto", "off")
    )
    assert shared.computed_tokens < shared.tokens == alone.tokens == alone.computed_tokens
