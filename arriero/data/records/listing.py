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
        names = [file.relative_to(source) for file in sorted(source.rglob("*"))]
        files = [name for name in names if is_data(name) and (source / name).is_file()]
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


def is_data(file: Path) -> bool:
    """Whether a file of a data set, in a directory or an archive, is named as data and not as what describes them."""
    described = file.name in ("dataset_info.json", "dataset_infos.json", MANIFEST)
    return file.suffix.lower() in ENDINGS and not is_hidden(file) and not described


def is_hidden(file: Path) -> bool:
    """Whether a file is there for a system and not for people; __MACOSX is what macOS puts into archives."""
    return any(step.startswith((".", "__MACOSX")) for step in file.parts)


def _part(file: Path) -> str:
    """The part that a path names, as on hubs: train-00000-of-00001.parquet, data/test-00000.parquet, test/x.json."""
    words = (re.split(r"[^a-z]", step.lower())[0] for step in reversed(file.with_suffix("").parts))
    return next((word for word in words if word in ("train", *HELD_OUT)), "")
