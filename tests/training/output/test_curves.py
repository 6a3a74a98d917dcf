"""The geometry of curves: nothing outside the plot, nothing lost that matters, whatever the run was like."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.training.output.curves import MOST_POINTS, charts, decimated, series, smoothed
from tests.training.output.sample import metrics, report


def losses(*values: float) -> list[dict[str, float]]:
    return [{"step": step, "loss": value} for step, value in enumerate(values, 1)]


def coordinates(line: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in line.split()]


def test_a_series_holds_the_numbers_there_are_and_of_a_step_the_last():
    lines = [{"step": 2, "loss": 3.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}]
    others = [{"step": 3, "loss": math.nan}, {"step": 4, "loss": None}, {"step": 5, "eval_loss": 1.0}, {"loss": 9.0}]
    lines += [*others, {"step": 6, "loss": "7"}]
    assert series(lines, "loss").tolist() == [[1, 4.0], [2, 2.0]]
    assert series([], "loss").shape == (0, 2)


def test_decimation_keeps_ends_and_extremes():
    values = np.sin(np.arange(5000) / 7)
    values[3210], values[77] = 50, -50
    points = np.column_stack([np.arange(5000), values])
    kept = decimated(points)
    assert 700 < len(kept) <= MOST_POINTS
    assert {0, 77, 3210, 4999} <= set(kept[:, 0])
    assert (np.diff(kept[:, 0]) > 0).all()


def test_smoothing():
    level = np.column_stack([np.arange(3000), np.full(3000, 2.5)])
    assert len(smoothed(level)) == MOST_POINTS // 2
    assert smoothed(level)[:, 1] == pytest.approx(2.5), "also at both ends"
    noisy = np.column_stack([np.arange(3000), np.random.default_rng(0).normal(size=3000)])
    assert smoothed(noisy)[:, 1].std() < 0.2 * noisy[:, 1].std()
    assert smoothed(level[:10]) is not None
    assert smoothed(level[:10]).tolist() == level[:10].tolist()


numbers = st.floats(-1e12, 1e12) | st.floats(1e-9, 1e-3) | st.just(0.0)


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(0, 10**7), st.integers(1, 1000))
def test_everything_lies_within_the_plot(values, first, gap):
    lines = [{"step": first + gap * index, "loss": value, "grad_norm": value} for index, value in enumerate(values)]
    drawn = charts([*lines, {"step": first, "eval_loss": values[-1]}], {})
    assert [chart.name for chart in drawn] == ["loss", "grad_norm"]
    for chart in drawn:
        percents = [value for line in (chart.raw, chart.held_out) for point in coordinates(line) for value in point]
        percents += [value for mark in chart.marks for value in (mark.x, mark.y)]
        percents += [tick.at for tick in (*chart.x_ticks, *chart.y_ticks)]
        assert all(-0.01 <= value <= 100.01 for value in percents)
        assert 1 <= len(chart.x_ticks) <= 7
        assert 2 <= len(chart.y_ticks) <= 9


def test_an_axis_is_logarithmic_where_values_differ_much_and_never_for_the_learning_rate():
    assert charts(losses(4.3, 2.5, 1.3), {})[0].unit == "nats per token"
    steep = charts(losses(4.3, 0.4, 0.01), {})[0]
    assert steep.unit == "nats per token, logarithmic"
    assert [tick.label for tick in steep.y_ticks] == ["0.01", "0.1", "1", "10"]
    rate = charts([{"step": step, "learning_rate": 10.0**-step} for step in range(1, 9)], {})[0]
    assert (rate.name, rate.unit) == ("learning_rate", "")


def test_an_axis_ends_at_round_numbers_and_begins_at_0_only_where_that_is_near():
    labels = [[tick.label for tick in charts(losses(*ends), {})[0].y_ticks] for ends in ((4.3, 1.3), (6, 1), (2, 2))]
    assert labels[0] == ["1", "1.5", "2", "2.5", "3", "3.5", "4", "4.5"]
    assert labels[1] == ["0", "1", "2", "3", "4", "5", "6"]
    assert labels[2][0] < "2" < labels[2][-1], "a level line lies in the middle"


def test_the_held_out_loss_begins_with_the_base_model_s_and_marks_the_best():
    loss = charts(metrics(40), report())[0]
    assert [(mark.kind, mark.label) for mark in loss.marks] == [
        ("held-out", "3.71"),
        ("held-out", "2.65"),
        ("best", "best 2.5"),
    ]
    assert loss.marks[0].x == 0
    assert len(coordinates(loss.held_out)) == 3
    assert "Held-out loss: 3.71 at step 0, 2.5 at step 40" in loss.description


def test_of_many_held_out_points_those_that_matter_are_labelled():
    lines = [{"step": step, "eval_loss": 3 + abs(step - 98) / 100} for step in range(1, 101)]
    marks = charts(lines, {"best": {"step": 98, "eval_loss": 3.0}})[0].marks
    labelled = [mark for mark in marks if mark.label]
    assert len(marks) == 100
    assert [mark.label for mark in labelled][-1] == "best 3"
    assert all(right.x - left.x >= 17 for left, right in pairwise(labelled))


def test_one_step_is_a_dot():
    loss, rate, norm = charts(metrics(1), {})
    for chart in (loss, rate, norm):
        assert (chart.raw, chart.smooth) == ("", "")
        assert chart.marks[0].kind == "dot"
    assert [tick.label for tick in rate.x_ticks] == ["1"]
    assert "0.0001 at step 1" in rate.description


def test_epochs_and_a_resumption_are_marked():
    turns = charts(metrics(40), report())[0].turns
    assert [(round(turn.at), turn.label) for turn in turns] == [(50, "epoch 2"), (25, "resumed")]
    many = [{**line, "epoch": line["step"]} for line in metrics(40)]
    assert charts(many, {})[0].turns == []


def test_nothing_recorded_nothing_drawn():
    assert charts([], {}) == []
    assert charts([{"step": 1, "loss": math.nan}], report() | {"evaluation": None, "best": None}) == []
