"""Where a run has graphs and where it says why not, and a whole run with them."""

from __future__ import annotations

import pytest
import torch

from arriero.errors import UsageError
from arriero.training.graphs import RowGraphs
from arriero.training.graphs.rows import GraphOptions
from arriero.training.options import TrainOptions
from arriero.training.setup import step_setup
from arriero.training.setup.graph_setup import add_graphs, obstacle
from arriero.training.steps import Steps
from tests.conftest import train_tiny
from tests.op_graph import OpCapture
from tests.training.dense_varlen import dense_varlen
from tests.training.test_exactness import build, steps_of
from tests.training.test_graphs import graphed
from tests.training.test_hardship import same_adapter
from tests.training.test_kernels import packed


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: steps_of(build("Llama", dropout=0.5)), "dropout is drawn anew"),
        (lambda: steps_of(build("Llama"), recomputed=1), "layers are computed again"),
        (lambda: steps_of(build("Llama"), "padded", own=False), "padded batches"),
        (lambda: steps_of(build("Llama"), "packed", own=False), "masked by the model itself"),
        (lambda: steps_of(packed()), "base weights are quantised"),
        (lambda: steps_of(build("Llama")), "this machine has no CUDA GPU"),
    ],
)
def test_where_there_are_none_the_reason_is_named_and_demanding_them_refused(make, word):
    steps = make()
    assert word in obstacle(steps)
    for wanted in ("auto", "off"):
        add_graphs(steps, TrainOptions(cuda_graphs=wanted))
    assert steps.graphs is None
    with pytest.raises(UsageError, match=f"--cuda-graphs on: .*{word}") as caught:
        add_graphs(steps, TrainOptions(cuda_graphs="on"))
    assert caught.value.hint == "--cuda-graphs auto"


def test_several_workers_have_none(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert "several workers exchange gradients" in obstacle(steps_of(build("Llama")))


def test_another_plan_starts_without_graphs():
    steps = graphed(build("Llama"))
    steps.apply(steps.plan)
    assert steps.graphs is None


def test_a_run_with_graphs_writes_the_adapter_of_one_without(tmp_path, rows_file, model_dir, monkeypatch, caplog):
    """Through Trainer, optimizer and schedule; out of memory once, which costs the graphs and not the plan."""
    options = {"epochs": 6, "learning_rate": 1e-3}
    expected = train_tiny(rows_file, model_dir, tmp_path / "expected", **options)
    captures, failed = [], []

    def add(steps, _):
        captures.append(OpCapture())
        options = GraphOptions(dense_varlen, tolerance=1e-3)
        steps.graphs = RowGraphs(steps.weighted_backward, list(steps.trained.values()), captures[0], options)

    own = Steps.backward

    def backward(steps, *arguments):
        if steps.graphs.graphs and len(failed) < 6:
            failed.append(steps)
            if len(failed) == 6:
                raise torch.OutOfMemoryError
        return own(steps, *arguments)

    monkeypatch.setattr(step_setup, "add_graphs", add)
    monkeypatch.setattr(Steps, "backward", backward)
    output = train_tiny(rows_file, model_dir, tmp_path / "run", **options)
    same_adapter(expected, output, 1e-3)
    assert len(failed) == 6
    assert captures[0].graphs
    assert "the model computes all rows: out of memory" in caplog.text
    assert "trying the step again with" not in caplog.text
