"""A loss of workers at a moment that is known: it does not depend on how fast a machine is."""

from __future__ import annotations

import pickle

import psutil

from arriero.cluster.training.progress import ProgressActor
from arriero.training import StepReport

KILL_AFTER = 5  # steps


class KillingActor(ProgressActor):
    """Kills one of the workers, once. The first one has made KILL_AFTER steps, and waits for this actor's answer."""

    def __init__(self) -> None:
        super().__init__()
        self._killed = False

    def report(self, pickled: bytes) -> bool:
        report = pickle.loads(pickled)
        if isinstance(report, StepReport) and report.step == KILL_AFTER and not self._killed:
            self._killed = True
            workers_of(psutil.Process().parent())[-1].kill()
        return super().report(pickled)


def workers_of(raylet: psutil.Process) -> list[psutil.Process]:
    """The training workers among a Ray node's processes."""
    workers = [child for child in raylet.children() if "RayTrainWorker" in " ".join(child.cmdline())]
    assert len(workers) == 2
    return workers
