"""Which rows are captured, when, and whether the graph computes what the model does.

first row of a bucket   computed by the model
second                  the same, and timed: what the first takes to set up kernels and memory says nothing of launching
third                   the same; a graph is captured with the second one as its input, and compared in what it
                        computes and, unless it is demanded, in how long that takes
from then on            replayed: inputs are copied into the graph's, gradients are added to `.grad` by it
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from arriero.cuda_graphs import MOST, REMEMBERED, Capture, Captured, Timing, put, refill
from arriero.training import compat
from arriero.training.graphs.bucket import Bucket, Kernel, filled, static_inputs
from arriero.training.inputs import RowInputs
from arriero.training.pack import PackedRow

GAIN = 0.95  # of the time that the model takes is the most that a graph may take
log = logging.getLogger(__name__)
Compute = Callable[[RowInputs, Tensor | float], Tensor]


@dataclass(frozen=True, slots=True)
class Visit:
    """The last row of a bucket that was computed without a graph, and how long that took; None of the first one."""

    row: PackedRow
    timing: Timing | None


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured row: its inputs by name, what replays it, and where its loss then is."""

    static: dict[str, Tensor]
    captured: Captured


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """`kernel` is the attention of captured rows.

    With `always` every row that returns is captured, and none is timed, else those bound by launching. Gradients may be
    `tolerance` apart from the model's, relative to all of them: what is captured wrongly is apart by about 1.
    """

    kernel: Kernel
    always: bool = False
    tolerance: float = 0.1


class RowGraphs:
    """Graphs of rows by bucket, at most MOST. `off` says why there are none any more.

    `compute` adds the gradients of a row's weighted loss to the `.grad` of `trained` and returns that loss, detached.
    """

    def __init__(self, compute: Compute, trained: Sequence[Tensor], capture: Capture, options: GraphOptions) -> None:
        self.compute, self.trained, self.capture, self.options = compute, list(trained), capture, options
        self.device = self.trained[0].device
        self.graphs: OrderedDict[Bucket, Graph] = OrderedDict()
        self.seen: OrderedDict[Bucket, Visit] = OrderedDict()
        self.slower: set[Bucket] = set()  # whose graphs were no faster than the model
        self.buffers: list[tuple[Tensor, Tensor]] = []  # parameters, and what their `.grad` is while a graph runs
        self.off = ""

    def backward(self, row: PackedRow, weight: float) -> Tensor:
        """Add the gradients of the row's loss times `weight`, and return that product; rows are filled up to TOKENS."""
        with self.capture.stream():
            if self.off:
                return self._computed(row, weight)
            bucket = Bucket.of(row)
            if bucket in self.slower:
                return self._computed(row, weight)
            if bucket in self.graphs:
                self.graphs.move_to_end(bucket)
                return self._replayed(bucket, row, weight)
            earlier = self.seen.pop(bucket, None)
            if earlier is not None and (self.options.always or (earlier.timing and earlier.timing.launch_bound())):
                return self._captured(bucket, earlier, row, weight)
            timing = self.capture.timed() if earlier is not None else None
            with timing or nullcontext():
                loss = self._computed(row, weight)
            put(self.seen, bucket, Visit(row, timing), REMEMBERED)
            return loss

    def release(self, reason: str) -> bool:
        """Give the graphs' memory back and make none any more; whether there were any."""
        any_graphs = bool(self.graphs)
        if not self.off:
            log.warning("CUDA graphs are off from now on, the model computes all rows: %s", reason)
        self.off = self.off or reason
        for kept in (self.graphs, self.seen):
            kept.clear()
        self.buffers = []
        return any_graphs

    def _computed(self, row: PackedRow, weight: float) -> Tensor:
        return self.compute(RowInputs.of(row, self.device), weight)

    def _captured(self, bucket: Bucket, earlier: Visit, row: PackedRow, weight: float) -> Tensor:
        """Compute `row` by the model, and have a graph from then on, if it finds the same gradients, and sooner."""
        before = [None if one.grad is None else one.grad.clone() for one in self.trained]
        self._clear()
        loss = self._computed(row, weight)
        # what this row alone adds, apart from what rows before it have
        own = [one.grad for one in self.trained]
        try:
            apart = self._capture(bucket, earlier.row, row, weight, own)
            took, usual = (self._replay_seconds(bucket), earlier.timing.seconds()) if earlier.timing else (0.0, 0.0)
        except Exception as error:  # whatever cannot be captured is computed by the model
            self.release(f"capturing raises {type(error).__name__}: {error}")
        else:
            if not apart <= self.options.tolerance:
                self.release(f"the gradients of a captured row are {apart:.2g} off")
            elif took > GAIN * usual:
                del self.graphs[bucket]
                self.slower.add(bucket)
                log.info(
                    "no CUDA graph for rows of %d tokens: it takes %.1f ms, the model %.1f",
                    *(bucket.tokens, 1000 * took, 1000 * usual),
                )
            else:
                log.info("captured a CUDA graph for rows of %d tokens, gradients %.1e apart", bucket.tokens, apart)
        for parameter, *grads in zip(self.trained, before, own, strict=True):
            parameter.grad = _sum(*grads)
        return loss

    def _capture(
        self, bucket: Bucket, earlier: PackedRow, row: PackedRow, weight: float, own: list[Tensor | None]
    ) -> float:
        """Capture `earlier`; returns how far the gradients of `row` by that graph are from its own."""
        # a graph writes to fixed addresses, so gradients of all graphs share these buffers
        self.buffers = self.buffers or [
            (parameter, torch.zeros_like(parameter))
            for parameter, grad in zip(self.trained, own, strict=True)
            if grad is not None
        ]
        self._attach()
        static = {name: tensor.to(self.device) for name, tensor in filled(earlier, bucket, weight).items()}
        inputs = static_inputs(static, earlier, bucket, self.options.kernel)
        captured = self.capture(lambda: self.compute(inputs, static["weight"]))
        put(self.graphs, bucket, Graph(static, captured), MOST)
        self._clear()
        self._replayed(bucket, row, weight)
        # another row than the captured one: constants that were captured by mistake would show
        ours = [buffer for _, buffer in self.buffers]
        theirs = [grad for grad in own if grad is not None]
        apart, whole = (
            torch.nn.utils.get_total_norm(parts)
            for parts in ([mine - other for mine, other in zip(ours, theirs, strict=True)], theirs)
        )
        return float(apart / whole) if float(whole) else float(apart)

    def _replayed(self, bucket: Bucket, row: PackedRow, weight: float) -> Tensor:
        graph = self.graphs[bucket]
        # weight is an input too, a scalar on the device: it changes with every step
        for name, tensor in filled(row, bucket, weight).items():
            refill(graph.static[name], tensor)
        self._attach()
        replay, loss = graph.captured
        replay()
        return loss.clone()  # another graph may write there

    def _replay_seconds(self, bucket: Bucket) -> float:
        """How long a graph takes that has been replayed before; its gradients are no row's, and to be thrown away."""
        timing = self.capture.timed()
        with timing:
            self.graphs[bucket].captured[0]()
        return timing.seconds()

    def _attach(self) -> None:
        """Have each `.grad` be its buffer, which is where graphs add to, with what it holds."""
        fresh = []
        for parameter, buffer in self.buffers:
            if parameter.grad is None:
                fresh.append(buffer)
            elif parameter.grad is not buffer:
                buffer.copy_(parameter.grad)
            parameter.grad = buffer
        if fresh:
            compat.zero(fresh)

    def _clear(self) -> None:
        for parameter in self.trained:
            parameter.grad = None


def _sum(before: Tensor | None, added: Tensor | None) -> Tensor | None:
    return added if before is None else before if added is None else before.add_(added)
