"""What every worker of a training run on Ray does: restore the last registered checkpoint, train, report new ones.

A worker trains in a directory of its own, which may be gone with its machine. What lasts is registered with Ray: the
first worker's directory after every checkpoint, and once more when it is finished.

torch and transformers are imported in the workers only: the driver's task and Ray's controller import this, too.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.cluster.training.progress import ActorLogHandler
from arriero.errors import ArrieroError, InterruptedRun

if TYPE_CHECKING:
    from arriero.training import StepReport

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """`name` of the output directory, `arguments` of `arriero.training.train`, handle of a ProgressActor."""

    name: str
    arguments: dict[str, Any]
    progress: Any


def train_loop(config: dict[str, Job]) -> None:
    """Run one worker of the job `config["job"]`, from the last registered checkpoint on.

    An error of ours ends the run; after anything else that ends a worker, Ray restarts all of them.
    """
    import ray
    from ray.train import get_checkpoint

    from arriero.training import train
    from arriero.training.output.directory import last_checkpoint

    job = config["job"]
    if ray.get(job.progress.error.remote()) is not None:
        return  # restarted by Ray after an error that does not go away
    with tempfile.TemporaryDirectory(prefix="arriero-") as directory, _log_to(job.progress):
        output, checkpoint = Path(directory) / job.name, get_checkpoint()
        if checkpoint is not None:
            checkpoint.to_directory(output)
            log.info("going on from the last registered checkpoint, of step %s", last_checkpoint(output)[1])
        try:
            train(
                output=output,
                resume=True,
                on_step=partial(_report_step, job.progress),
                on_checkpoint=partial(_report_checkpoint, output),
                **job.arguments,
            )
            _report_checkpoint(output)
        except InterruptedRun as interruption:
            ray.get(job.progress.fail.remote(interruption))
        except ArrieroError as error:
            ray.get(job.progress.fail.remote(error))
            raise


def _report_step(progress: Any, report: StepReport) -> bool:
    import ray

    return bool(ray.get(progress.report.remote(pickle.dumps(report))))


def _report_checkpoint(output: Path, step: int | None = None) -> None:
    """Register `output` as it is now with Ray; every worker has to call this, as often as the others."""
    from ray.train import Checkpoint, report

    from arriero.training import workers
    from arriero.training.output.directory import LOCK

    if workers.rank():
        report({"step": step})
        return
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=output.parent) as directory:
        snapshot = Path(directory) / "run"
        shutil.copytree(output, snapshot, copy_function=os.link, ignore=shutil.ignore_patterns(LOCK))
        report({"step": step}, checkpoint=Checkpoint.from_directory(snapshot))


@contextmanager
def _log_to(progress: Any) -> Iterator[None]:
    """Within the block the driver receives the first worker's log."""
    from arriero.training import workers

    logger, handler = logging.getLogger("arriero"), ActorLogHandler(progress)
    if workers.rank():
        yield
        return
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
