"""What every worker of a training run on Ray does: restore the last registered checkpoint, train, report new ones.

A worker trains in a directory of its own, which may be gone with its machine. What lasts is registered with Ray: the
first worker's directory after every checkpoint, and once more when it is finished.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from arriero.cluster.training.progress import BoardLog
from arriero.errors import ArrieroError, InterruptedRun
from arriero.training import StepReport, train, workers
from arriero.training.output.directory import LOCK, last_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained, as `train` takes it. `name` is the output directory's; `board` the handle of a Board."""

    name: str
    arguments: dict[str, Any]
    board: Any


def work(config: dict[str, Job]) -> None:
    """A worker's part of the run `config["job"]`, from the last registered checkpoint on.

    An error of ours ends the run; whatever else ends a worker, Ray begins again with new ones.
    """
    import ray
    from ray.train import get_checkpoint

    job = config["job"]
    if ray.get(job.board.end.remote()) is not None:
        return  # begun once more after an error that does not go away
    with tempfile.TemporaryDirectory(prefix="arriero-") as folder, _log_told(job.board):
        output, before = Path(folder) / job.name, get_checkpoint()
        if before is not None:
            before.to_directory(output)
            log.info("going on from the last registered checkpoint, of step %s", last_checkpoint(output)[1])
        try:
            train(
                output=output,
                resume=True,
                on_step=partial(_tell, job.board),
                on_checkpoint=partial(_register, output),
                **job.arguments,
            )
            _register(output)
        except InterruptedRun as stopped:
            ray.get(job.board.fail.remote(stopped))
        except ArrieroError as error:
            ray.get(job.board.fail.remote(error))
            raise


def _tell(board: Any, report: StepReport) -> bool:
    import ray

    return bool(ray.get(board.tell.remote(report)))


def _register(output: Path, step: int | None = None) -> None:
    """Hand Ray the run as it is now; every worker has to, as often as the others."""
    from ray.train import Checkpoint, report

    if workers.rank():
        report({"step": step})
        return
    with tempfile.TemporaryDirectory(prefix="kept-", dir=output.parent) as folder:
        kept = Path(folder) / "run"
        shutil.copytree(output, kept, copy_function=os.link, ignore=shutil.ignore_patterns(LOCK))
        report({"step": step}, checkpoint=Checkpoint.from_directory(kept))


@contextmanager
def _log_told(board: Any) -> Iterator[None]:
    """Within the block the driver gets the first worker's log."""
    ours, handler = logging.getLogger("arriero"), BoardLog(board)
    if workers.rank():
        yield
        return
    before = ours.level
    ours.setLevel(logging.INFO)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before)
