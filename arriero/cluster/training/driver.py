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
from arriero.cluster.training.fit import ClusterOptions, fit
from arriero.cluster.training.loop import Job
from arriero.cluster.training.progress import LogLine, ProgressActor, unpickled
from arriero.cluster.training.resources import local_paths, resources_per_worker
from arriero.cluster.training.storage import RunStorage
from arriero.errors import ArrieroError, InterruptedRun, UsageError
from arriero.hardware import cores
from arriero.prompt.options import taken
from arriero.runs.registry import absolute
from arriero.training import TrainOptions, TrainReport
from arriero.training.output import directory
from arriero.training.progress import OnStep, StepReport, stops_on_signals
from arriero.training.request import identity_of, record_of, resolve_request

log = logging.getLogger(__name__)
POLL = 0.2  # seconds between two questions for the workers' reports
ONLY_WITH_RAY = ("workers", "storage", "max_failures")


def train(file: str | Path, *, output: str | Path, ray: str | None = None, **options: Any) -> TrainReport:
    """Fine-tune as `arriero.training.train` does, whose arguments these are, here or on a Ray cluster.

    `ray` is its address: HOST:PORT, "auto", or "local" for workers on this machine alone. With it, `workers` (1) train
    together, `storage` is a directory or URI that all machines reach, and lost workers are replaced up to
    `max_failures` (3) times, going on from the last registered checkpoint. Raises what `train` and `connect` raise,
    UsageError and AccessError for what the cluster lacks, and ArrieroError where workers were lost too often.
    """
    cluster_options = {name: options.pop(name, None) for name in ONLY_WITH_RAY}
    given = {name: value for name, value in cluster_options.items() if value is not None}
    if ray is None:
        if given:
            raise UsageError(
                f"--{min(given).replace('_', '-')} is for training on Ray",
                hint="add --ray local|auto|HOST:PORT; without Ray: torchrun --nproc_per_node N -m arriero.cli train …",
            )
        return training.train(file, output=output, **options)
    return _Driver(file, Path(output).expanduser().resolve(), ClusterOptions(ray, **given), options).run()


@dataclass(slots=True)
class _Driver:
    """One run; `options` are the other arguments of `arriero.training.train`."""

    file: str | Path
    output: Path
    cluster_options: ClusterOptions
    options: dict[str, Any]
    last: tuple[int, bool] = field(default=(0, False), init=False)  # line of metrics.jsonl: step, is an evaluation

    def run(self) -> TrainReport:
        """Train to the end, or raise what ended it."""
        resume, on_step = self.options.pop("resume", False), self.options.pop("on_step", None)
        model, prompting = self.options.pop("model", None), taken(self.options)
        chosen = TrainOptions.of(self.options)
        loaded = data.load(self.file, chosen)
        resolved, chosen = resolve_request(chosen, model, prompting)
        if chosen.from_adapter is not None:
            self.options["from_adapter"] = chosen.from_adapter  # workers are in other directories
        identity = identity_of(loaded, resolved, chosen, prompting)
        record = record_of(self.file, self.output, model, prompting, chosen, self.cluster_options.workers)
        with ExitStack() as run:
            finished = run.enter_context(directory.claimed(self.output, identity, resume=resume))
            if finished is not None:
                log.info("%s is already finished", self.output)
                return finished
            run.enter_context(runs.registered(record))
            options, local = self.cluster_options, self.cluster_options.address == clusters.LOCAL
            cpus = max(cores(), options.workers) if local else None
            cluster = run.enter_context(clusters.connect(options.address, cpus=cpus))
            resources = resources_per_worker(cluster.nodes(local_paths(record)), options.workers)
            storage = RunStorage.of(self.output, options.storage, single_machine=local)
            storage.check_writable()
            run.callback(storage.fetch, self.output)
            self._fit({"model": record.model, **prompting}, storage, resources, on_step)
        return directory.read_report(self.output)

    def _fit(
        self, arguments: dict[str, Any], storage: RunStorage, resources: dict[str, int], on_step: OnStep | None
    ) -> None:
        """Have Ray Train run to its end, and receive the workers' reports meanwhile."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        progress = ray.remote(num_cpus=0, scheduling_strategy=this_node)(ProgressActor).remote()
        job = Job(self.output.name, {"file": absolute(self.file), **arguments, **self.options}, progress)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=this_node)(fit)
        fitting = task.remote(job, (storage.storage, storage.name), resources, self.cluster_options)
        stop, done = threading.Event(), False
        with stops_on_signals(stop):
            while not done:
                ended = bool(ray.wait([fitting], timeout=POLL)[0])
                reports, error = ray.get(progress.drain.remote())
                self._receive(unpickled(reports), on_step, stop)
                # not waited for after an error: Ray restarts the workers, which end because of it, up to max_failures
                done = ended or (error is not None and not isinstance(error, InterruptedRun))
                if stop.is_set():
                    progress.stop.remote()
        if error is not None:
            raise error
        try:
            ray.get(fitting)
        except ray.exceptions.RayError as lost:
            raise ArrieroError(
                f"workers were lost more often than --max-failures {self.cluster_options.max_failures} allows: "
                f"{_last_line(lost)}",
                hint="the same command with --resume goes on from the last checkpoint; --max-failures N for more",
            ) from lost

    def _receive(self, reports: Sequence[StepReport | LogLine], on_step: OnStep | None, stop: threading.Event) -> None:
        """Log lines to this process's log, steps to metrics.jsonl and to `on_step`."""
        for report in reports:
            if isinstance(report, LogLine):
                log.log(report.level, "%s", report.text)
                continue
            evaluation = report.loss is None
            if (report.step, evaluation) <= self.last:  # repeated after a loss of workers
                directory.keep_metrics_before(self.output, report.step, evaluation=evaluation)
            self.last = report.step, evaluation
            with (self.output / directory.METRICS).open("a", encoding="utf-8") as metrics:
                metrics.write(report.line)
            if on_step is not None and on_step(report):
                stop.set()


def _last_line(error: Exception) -> str:
    """What Ray's error comes down to, without tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
