"""train(): here, or on a Ray cluster, with Ray Train's workers, failure handling and storage around it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arriero import data, runs, training
from arriero.cluster import connect as clusters
from arriero.cluster.connect import Node
from arriero.cluster.training.loop import Job, work
from arriero.cluster.training.progress import Board, Said
from arriero.cluster.training.storage import Kept
from arriero.errors import ArrieroError, InterruptedRun, NotFoundError, UsageError
from arriero.hardware import cores
from arriero.prompt.options import taken
from arriero.runs.registry import Record, absolute
from arriero.training import TrainOptions, TrainReport
from arriero.training.output import directory
from arriero.training.progress import OnStep, StepReport, stops_on_signals
from arriero.training.request import identity_of, record_of, resolve_request

log = logging.getLogger(__name__)
POLL = 0.2  # seconds between two looks at what workers have told
MAX_FAILURES = 3
ONLY_WITH_RAY = ("workers", "storage", "max_failures")


def train(file: str | Path, *, output: str | Path, ray: str | None = None, **options: Any) -> TrainReport:
    """Fine-tune as `arriero.training.train` does, whose arguments these are, here or on a Ray cluster.

    `ray` is its address: HOST:PORT, "auto", or "local" for workers on this machine alone. With it, `workers` (1) train
    together, `storage` is a directory or URI that all machines reach, and lost workers are replaced up to
    `max_failures` (3) times, going on from the last registered checkpoint. Raises what `train` and `connect` raise,
    UsageError and AccessError for what the cluster lacks, and ArrieroError where workers were lost too often.
    """
    wished = {name: options.pop(name, None) for name in ONLY_WITH_RAY}
    given = {name: value for name, value in wished.items() if value is not None}
    if ray is None:
        if given:
            raise UsageError(
                f"--{min(given).replace('_', '-')} is for training on Ray",
                hint="add --ray local|auto|HOST:PORT; without Ray: torchrun --nproc_per_node N -m arriero.cli train …",
            )
        return training.train(file, output=output, **options)
    return _Run(file, Path(output).expanduser().resolve(), Wish(ray, **given), options).go()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of Ray."""

    address: str
    workers: int = 1
    storage: str | None = None
    max_failures: int = MAX_FAILURES

    def __post_init__(self) -> None:
        if not isinstance(self.workers, int) or self.workers < 1:
            raise UsageError(
                f"--workers takes a number of at least 1, got {self.workers!r}; it stays the same for the whole run, "
                "or what is learned would not",
                hint="--workers 2",
            )
        if not isinstance(self.max_failures, int) or self.max_failures < 0:
            raise UsageError(f"--max-failures takes a number of at least 0, got {self.max_failures!r}")


@dataclass(slots=True)
class _Run:
    """A run as its driver sees it; `options` are the other arguments of `arriero.training.train`."""

    file: str | Path
    output: Path
    wish: Wish
    options: dict[str, Any]
    last: int = field(default=0, init=False)  # the last step of metrics.jsonl

    def go(self) -> TrainReport:
        """Train to the end, or raise what ended it."""
        resume, on_step = self.options.pop("resume", False), self.options.pop("on_step", None)
        model, prompting = self.options.pop("model", None), taken(self.options)
        chosen = TrainOptions.of(self.options)
        loaded = data.load(self.file, chosen)
        resolved, chosen = resolve_request(chosen, model, prompting)
        if chosen.from_adapter is not None:
            self.options["from_adapter"] = chosen.from_adapter  # workers are in other directories
        identity = identity_of(loaded, resolved, chosen, prompting)
        record = record_of(self.file, self.output, model, prompting, chosen, self.wish.workers)
        with ExitStack() as run:
            finished = run.enter_context(directory.claimed(self.output, identity, resume=resume))
            if finished is not None:
                log.info("%s is already finished", self.output)
                return finished
            run.enter_context(runs.registered(record))
            alone = self.wish.address == clusters.LOCAL
            here = max(cores(), self.wish.workers) if alone else None
            cluster = run.enter_context(clusters.connect(self.wish.address, cpus=here))
            resources = resources_of(cluster.nodes(paths_of(record)), self.wish.workers)
            kept = Kept.of(self.output, self.wish.storage, alone=alone)
            kept.check()
            run.callback(kept.fetch, self.output)
            self._fit({"model": record.model, **prompting}, kept, resources, on_step)
        return directory.read_report(self.output)

    def _fit(self, what: dict[str, Any], kept: Kept, resources: dict[str, int], on_step: OnStep | None) -> None:
        """Until all is done; what workers tell is passed on meanwhile."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        board = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
        arguments = {"file": absolute(self.file), **what, **self.options}
        job = Job(self.output.name, arguments, board)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=here)(fit)
        fitting = task.remote(job, kept, resources, self.wish)
        stop, done = threading.Event(), False
        with stops_on_signals(stop):
            while not done:
                ended = bool(ray.wait([fitting], timeout=POLL)[0])
                told, end = ray.get(board.take.remote())
                self._pass_on(told, on_step, stop)
                # Ray begins again after an error that does not go away, and then finds it on the board
                done = ended or (end is not None and not isinstance(end, InterruptedRun))
                if stop.is_set():
                    board.stop.remote()
        if end is not None:
            raise end
        try:
            ray.get(fitting)
        except ray.exceptions.RayError as error:
            raise ArrieroError(
                f"workers were lost more than {self.wish.max_failures} times: {_last_line(error)}",
                hint="the same command with --resume goes on from the last checkpoint; --max-failures N for more",
            ) from error

    def _pass_on(self, told: Sequence[StepReport | Said], on_step: OnStep | None, stop: threading.Event) -> None:
        """Log lines to this process's log, steps to metrics.jsonl and to `on_step`."""
        for each in told:
            if isinstance(each, Said):
                log.log(each.level, "%s", each.text)
                continue
            if each.loss is not None and each.step <= self.last:  # once more, after workers were lost
                directory.keep_metrics_until(self.output, each.step - 1)
            self.last = each.step
            with (self.output / directory.METRICS).open("a", encoding="utf-8") as metrics:
                metrics.write(each.line)
            if on_step is not None and on_step(each):
                stop.set()


def fit(job: Job, kept: Kept, resources: dict[str, int], wish: Wish) -> None:
    """Run Ray Train to its end, in a task of its own: a driver that ends takes it along."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=wish.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=kept.name,
            storage_path=kept.storage,
            failure_config=FailureConfig(max_failures=wish.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()


def paths_of(record: Record) -> list[str]:
    """What every machine has to have where this one has it: data and model, where they are no hub's names."""
    names = (record.data, record.model, record.options.get("from_adapter"))
    return [name for name in names if name is not None and Path(name).exists()]


def resources_of(nodes: Sequence[Node], workers: int) -> dict[str, int]:
    """What each of `workers` gets of the cluster: a GPU where there are any, and its share of the CPUs.

    Raises UsageError where there is too little for all of them, NotFoundError where a node lacks data or model.
    """
    able = [node for node in nodes if node.gpus] or [node for node in nodes if node.cpus]
    kind = "GPU" if any(node.gpus for node in able) else "CPU"
    places = [int(node.gpus if kind == "GPU" else node.cpus) for node in able]
    if sum(places) < workers:
        raise UsageError(
            f"{workers} workers need a {kind} each, and the cluster has {sum(places)}",
            hint=f"--workers {sum(places)}" if sum(places) else "ray status; add nodes with ray start --address=…",
        )
    for node in able:
        if node.missing:
            raise NotFoundError(
                f"{node.address} has no {', '.join(node.missing)}",
                hint="data and model have to be at the same path on every machine, or be a hub's name",
            )
    if kind == "GPU":
        return {"GPU": 1, "CPU": max(1, min(int(node.cpus / node.gpus) for node in able))}
    return {"CPU": next(size for size in range(max(places), 0, -1) if sum(at // size for at in places) >= workers)}


def _last_line(error: Exception) -> str:
    """What Ray's error comes down to, without tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
