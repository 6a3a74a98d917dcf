"""Ray Train around the workers' loop, in a Ray task that imports neither the driver nor transformers."""

from __future__ import annotations

from dataclasses import dataclass

from arriero.cluster.training.loop import Job, train_loop
from arriero.errors import UsageError

MAX_FAILURES = 3


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """`arriero train`'s options that only Ray has."""

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


def fit(job: Job, location: tuple[str, str], resources: dict[str, int], options: ClusterOptions) -> None:
    """Run Ray Train to its end; as a task it ends together with its driver.

    `location` is the storage and the run's name in it, `resources` are those of a worker.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    storage, name = location
    TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=options.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=options.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
