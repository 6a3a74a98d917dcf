"""A run's checkpoints in a place that all machines reach: a directory on a shared disk, or an object store's URI."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arriero.errors import AccessError, UsageError
from arriero.hub import read_json
from arriero.prompt import CONTRACT_FILE
from arriero.training.output import checkpoint, directory

RECORD = "ray.json"  # beside the run's checkpoints: where the others are


@dataclass(frozen=True, slots=True)
class RunStorage:
    """Where a run's checkpoints are: `name` within `storage`."""

    storage: str
    name: str

    @classmethod
    def of(cls, output: Path, storage: str | None, *, single_machine: bool) -> RunStorage:
        """That of the run that `output` holds, or a new one.

        Raises UsageError where several machines have no `storage`, or the run was begun elsewhere.
        """
        checkpoints = output / directory.CHECKPOINTS
        record = read_json(checkpoints / RECORD)
        if record:
            return cls(**record)._reopened(output, storage)
        if checkpoint.by_step(checkpoints):
            raise UsageError(f"the run in {output} was not begun on Ray", hint="go on with it without --ray")
        if storage is None and not single_machine:
            raise UsageError(
                "several machines need a place for checkpoints that all of them reach",
                hint="--storage s3://bucket/runs, or a directory on a shared disk",
            )
        new = cls(_location(storage or checkpoints / "ray"), f"{output.name}-{secrets.token_hex(4)}")
        directory.write_json(checkpoints / RECORD, asdict(new))
        return new

    def _reopened(self, output: Path, storage: str | None) -> RunStorage:
        """This, once it is known to be what `--storage` names and to have the run's checkpoints."""
        if storage is not None and _location(storage) != self.storage:
            raise UsageError(
                f"the run in {output} keeps its checkpoints in {self.storage}, not in {storage}",
                hint="leave --storage out, or give another --output",
            )
        if checkpoint.by_step(output / directory.CHECKPOINTS) and self.latest() is None:
            raise UsageError(
                f"{self.storage} has no checkpoints of the run in {output} any more",
                hint="the same command without --ray goes on from the last one here",
            )
        return self

    def check_writable(self) -> None:
        """Raise AccessError where nothing can be written there."""
        from pyarrow import fs

        try:
            files, path = fs.FileSystem.from_uri(self.storage)
            files.create_dir(path, recursive=True)
            probe = f"{path}/.{self.name}"
            with files.open_output_stream(probe) as stream:
                stream.write(b"")
            files.delete_file(probe)
        except (OSError, ValueError) as error:
            raise AccessError(
                f"nothing can be written to {self.storage}: {error}",
                hint="--storage takes a directory or a URI (s3://, gs://, hdfs://) with write access on every machine",
            ) from error

    def latest(self) -> Any:
        """The last registered checkpoint (Ray's), None where there is none."""
        from ray.train import Result

        try:
            return Result.from_path(f"{self.storage.rstrip('/')}/{self.name}").checkpoint
        except (RuntimeError, OSError):  # what Ray says of a run without checkpoints
            return None

    def fetch(self, output: Path) -> None:
        """Bring the run as it was last saved into `output`: finished, or with checkpoints to go on from."""
        last = self.latest()
        if last is None:
            return
        with tempfile.TemporaryDirectory(prefix=".fetched-", dir=output) as temporary:
            fresh = Path(last.to_directory(temporary))
            if (report := read_json(fresh / directory.REPORT)) and "result" in report:
                report["result"]["output"] = str(output)
                directory.write_json(fresh / directory.REPORT, report)
            contract = fresh / CONTRACT_FILE
            shutil.copytree(fresh, output, ignore=shutil.ignore_patterns(CONTRACT_FILE), dirs_exist_ok=True)
            if contract.is_file():
                contract.replace(output / CONTRACT_FILE)  # last: a directory that has it is finished


def _location(storage: str | Path) -> str:
    """A URI as it is, a path made absolute: workers have other working directories."""
    return str(storage) if "://" in str(storage) else str(Path(storage).expanduser().resolve())
