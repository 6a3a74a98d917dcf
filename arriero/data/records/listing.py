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


def files_of(source: Path) -> list[Path]:
    """The data files that a path names: itself, or those in the directory, by name. Raises NotFoundError."""
    if source.is_dir():
        files = [file for file in sorted(source.rglob("*")) if _is_data(file, source)]
        train = [file for file in files if _part(file, source) == "train"]
        others = [file for file in files if _part(file, source) in ("test", "valid", "validation", "dev", "eval")]
        if train and others:
            log.info("using the training files only, not %s", ", ".join(file.name for file in others))
            files = train
        if not files:
            raise NotFoundError(f"{source} holds no {', '.join(ENDINGS)} file")
        return files
    if not source.is_file():
        hint = "give a file, a directory of files, or a data set's name owner/name"
        raise NotFoundError(f"no file {source}", hint=hint)
    return [source]


def _is_data(file: Path, root: Path) -> bool:
    hidden = any(name.startswith(".") for name in file.relative_to(root).parts)
    described = file.name in ("dataset_info.json", "dataset_infos.json", MANIFEST)
    return file.suffix.lower() in ENDINGS and file.is_file() and not hidden and not described


def _part(file: Path, root: Path) -> str:
    """The part of a data set that a file's path names, as hubs do it: train-00000-of-00001.parquet, test/x.json."""
    first = file.relative_to(root).with_suffix("").as_posix()
    return re.split(r"[^a-z]", first.lower())[0]
