"""The data files that a path names."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from arriero.errors import NotFoundError
from arriero.hub.store import MANIFEST

log = logging.getLogger(__name__)
# Of a directory's files; a file that is named itself may have any ending, since its content decides.
ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".xlsx", ".zip", ".gz")


HELD_OUT = ("test", "valid", "validation", "dev", "eval")


def files_of(source: Path) -> list[Path]:
    """The data files that a path names: itself, or those in the directory, by name. Raises NotFoundError."""
    if source.is_dir():
        files = [file.relative_to(source) for file in sorted(source.rglob("*")) if _is_data(file, source)]
        if not files:
            raise NotFoundError(f"{source} holds no {', '.join(ENDINGS)} file")
        return [source / file for file in for_training(files)]
    if not source.is_file():
        hint = "give a file, a directory of files, or a data set's name owner/name"
        raise NotFoundError(f"no file {source}", hint=hint)
    return [source]


def for_training(files: list[Path]) -> list[Path]:
    """Of a data set in parts the training part, which is said; else all. Paths begin in the data set's directory."""
    train = [file for file in files if _part(file) == "train"]
    others = [file for file in files if _part(file) in HELD_OUT]
    if not (train and others):
        return files
    log.info("using the training files only, not %s", ", ".join(map(str, others)))
    return train


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(name.startswith(".") for name in file.relative_to(root).parts)
    described = file.name in ("dataset_info.json", "dataset_infos.json", MANIFEST)
    return file.suffix.lower() in ENDINGS and file.is_file() and not hidden and not described


def _part(file: Path) -> str:
    """The part that a path names, as on hubs: train-00000-of-00001.parquet, data/test-00000.parquet, test/x.json."""
    words = (re.split(r"[^a-z]", step.lower())[0] for step in reversed(file.with_suffix("").parts))
    return next((word for word in words if word in ("train", *HELD_OUT)), "")
