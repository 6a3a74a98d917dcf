"""Curves over optimizer steps as geometry; the macro `chart` in templates/parts.html draws them as SVG.

    metrics ──series──> (step, value), n x 2 ──decimated, smoothed──> points ──placed by two axes──> Chart

A Chart's lines, marks and ticks are in per cent of the plot, x to the right and y down: not in pixels, so that one
drawing fits a phone and a sheet of paper while its text keeps its size. No package that training needs can draw (the
web page's Altair is not one of them), and pages may hold no scripts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arriero.templates import short
from arriero.training.output.axis import Axis, Series

Metrics = Sequence[Mapping[str, Any]]
MOST_POINTS = 800  # of one line: more than a screen shows


@dataclass(frozen=True, slots=True)
class Tick:
    """A position on an axis and what stands there."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that is shown by itself; `label` is empty where there is no room for one."""

    x: float
    y: float
    kind: str
    title: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing. Lines are SVG point lists and empty where there is none."""

    name: str
    title: str
    unit: str
    description: str
    height: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    raw: str = ""
    smooth: str = ""
    held_out: str = ""
    marks: list[Mark] = field(default_factory=list)
    turns: list[Tick] = field(default_factory=list)


def series(metrics: Metrics, name: str) -> Series:
    """(step, value) of the lines that have this value, by step; of a step that comes twice the last."""
    ticks = {line["step"]: line[name] for line in metrics if _is_number(line.get("step"), line.get(name))}
    return np.array(sorted(ticks.items()), dtype=np.float64).reshape(-1, 2)


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def decimated(points: Series, most: int = MOST_POINTS) -> Series:
    """At most `most` of the points: the first, the last, and the least and greatest of equally many in a row."""
    if len(points) <= most:
        return points
    kept = {0, len(points) - 1}
    for indices in np.array_split(np.arange(len(points)), most // 2 - 1):
        values = points[indices, 1]
        kept |= {int(indices[values.argmin()]), int(indices[values.argmax()])}
    return points[sorted(kept)]


def smoothed(points: Series, most: int = MOST_POINTS // 2) -> Series:
    """At most `most` points, each a mean over its neighbours under a Hann window; few points stay as they are."""
    if len(points) < 16:
        return points
    means = np.array([some.mean(axis=0) for some in np.array_split(points, min(most, len(points)))])
    window = np.hanning(2 * (len(means) // 16) + 3)
    weights = np.convolve(np.ones(len(means)), window, "same")  # less at both ends, where neighbours are missing
    return np.column_stack([means[:, 0], np.convolve(means[:, 1], window, "same") / weights])


@dataclass(frozen=True, slots=True)
class _Frame:
    """The two axes of a drawing."""

    x: Axis
    y: Axis

    @classmethod
    def around(cls, *lines: Series, parts: int, log: bool = True) -> _Frame:
        points = np.concatenate(lines)
        return cls(Axis.of_steps(points[:, 0]), Axis.of_values(points[:, 1], parts=parts, log=log))

    def at(self, points: Series) -> Series:
        return np.column_stack([self.x.position(points[:, 0]), 100 - self.y.position(points[:, 1])])

    def line(self, points: Series) -> str:
        """SVG points; one point is no line."""
        return " ".join(f"{x:.2f},{y:.2f}" for x, y in self.at(points)) if len(points) > 1 else ""

    def chart(self, name: str, title: str, **rest: Any) -> Chart:
        x_ticks = [Tick(float(self.x.position(value)), f"{value:,.0f}") for value in self.x.ticks]
        y_ticks = [Tick(100 - float(self.y.position(value)), short(value)) for value in self.y.ticks]
        unit = rest.pop("unit", "") + (", logarithmic" if self.y.log else "")
        return Chart(name=name, title=title, unit=unit.removeprefix(", "), x_ticks=x_ticks, y_ticks=y_ticks, **rest)


def charts(metrics: Metrics, report: Mapping[str, Any]) -> list[Chart]:
    """The loss, and the learning rate and the gradient's norm where they were recorded."""
    drawn = [
        _loss(series(metrics, "loss"), _held_out(metrics, report), report, series(metrics, "epoch")),
        _small("learning_rate", "Learning rate", series(metrics, "learning_rate"), noisy=False),
        _small("grad_norm", "Gradient norm", series(metrics, "grad_norm"), noisy=True),
    ]
    return [chart for chart in drawn if chart is not None]


def _held_out(metrics: Metrics, report: Mapping[str, Any]) -> Series:
    """The held-out loss by step, beginning with the base model's, which is that of step 0."""
    before = ((report.get("evaluation") or {}).get("base") or {}).get("nll")
    best = report.get("best") or {}
    return series([{"step": 0, "eval_loss": before}, best, *metrics], "eval_loss")


def _loss(loss: Series, held_out: Series, report: Mapping[str, Any], epochs: Series) -> Chart | None:
    if not len(loss) + len(held_out):
        return None
    frame = _Frame.around(loss, held_out, parts=6)
    smooth = smoothed(loss)
    return frame.chart(
        "loss",
        "Loss",
        unit="nats per token",
        description=_told("Training loss", loss) + _told("Held-out loss", held_out),
        height=300,
        raw=frame.line(decimated(loss)) if smooth is not loss else "",
        smooth=frame.line(smooth),
        held_out=frame.line(held_out),
        marks=_dots(frame, loss) + _marks(frame, held_out, (report.get("best") or {}).get("step")),
        turns=_turns(frame, epochs, (report.get("result") or {}).get("resumed_from")),
    )


def _small(name: str, title: str, points: Series, *, noisy: bool) -> Chart | None:
    if not len(points):
        return None
    frame = _Frame.around(points, parts=3, log=noisy)
    drawn = smoothed(points) if noisy else decimated(points)
    return frame.chart(
        name,
        title,
        description=_told(title, points),
        height=120,
        raw=frame.line(decimated(points)) if noisy and drawn is not points else "",
        smooth=frame.line(drawn),
        marks=_dots(frame, points),
    )


def _told(what: str, points: Series) -> str:
    """A curve in words, for those who do not see it."""
    if not len(points):
        return ""
    (first, start), (last, end) = points[0], points[-1]
    if len(points) == 1:
        return f"{what}: {short(start)} at step {first:.0f}. "
    least = points[points[:, 1].argmin()]
    return (
        f"{what}: {short(start)} at step {first:.0f}, {short(end)} at step {last:.0f}, "
        f"the least {short(least[1])} at step {least[0]:.0f}. "
    )


def _dots(frame: _Frame, points: Series) -> list[Mark]:
    """A curve of one point, which no line shows."""
    if len(points) != 1:
        return []
    (x, y), (step, value) = frame.at(points)[0], points[0]
    return [Mark(float(x), float(y), "dot", f"step {step:.0f}: {short(value)}")]


def _marks(frame: _Frame, points: Series, best: int | None, room: float = 17) -> list[Mark]:
    """The held-out points. Those that matter get their label first: the best, the last, the first; then the others."""
    positions = frame.at(points)
    is_best = points[:, 0] == (math.nan if best is None else best)
    order = sorted(range(len(points)), key=lambda i: (not is_best[i], i != len(points) - 1, i))
    labelled: list[int] = []
    for index in order:
        if all(abs(positions[index, 0] - positions[other, 0]) >= room for other in labelled):
            labelled.append(index)
    marks = []
    for index, ((x, y), (step, value)) in enumerate(zip(positions, points, strict=True)):
        kind, prefix = ("best", "best ") if is_best[index] else ("held-out", "")
        label = prefix + short(value) if index in labelled else ""
        marks.append(Mark(float(x), float(y), kind, f"step {step:.0f}: {prefix}{value:.4f}", label))
    return marks


def _turns(frame: _Frame, epochs: Series, resumed_from: int | None, most: int = 5) -> list[Tick]:
    """Where an epoch ends, unless there are many, and where a run was resumed."""
    ticks = []
    if len(epochs) > 1 and (np.diff(epochs[:, 1]) > 0).all():
        ended = np.arange(math.floor(epochs[0, 1]) + 1, math.ceil(epochs[-1, 1] - 0.01))
        if len(ended) < most:
            positions = frame.x.position(np.interp(ended, epochs[:, 1], epochs[:, 0]))
            ticks = [Tick(float(at), f"epoch {epoch + 1}") for at, epoch in zip(positions, ended, strict=True)]
    if resumed_from:
        ticks.append(Tick(float(frame.x.position(resumed_from)), "resumed"))
    return [turn for turn in ticks if 0 <= turn.at <= 100]
