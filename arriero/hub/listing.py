"""A hub's listing of files: which names may become files in a directory, and whether what arrived is what it lists."""

from __future__ import annotations

import re
import shutil
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from arriero.errors import DownloadError
from arriero.hub.store import FileRecord, files_in

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")  # of the files of a data set
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
SECOND = re.compile(
    r"consolidated.*\.safetensors(\.index\.json)?|model\.(?!safetensors).*\.safetensors(\.index\.json)?"
)


@dataclass(frozen=True, slots=True)
class Listed:
    """What a hub says of one file: size in bytes, SHA-256 and git's SHA-1 in hex; None where it does not say.

    `kind` is blob for a file, else the hub's word for what it is: a link, another repository.
    """

    name: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    kind: str = "blob"


def unsafe(name: str) -> str | None:
    """Why a name must not become a file, None where it may: on POSIX and on Windows it stays inside its directory."""
    segments = name.split("/")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "which holds a control character"
    if "\\" in name or any(PureWindowsPath(segment).drive for segment in segments):
        return "which is a path on Windows"
    if name.startswith("/"):
        return "which is an absolute path"
    if ".." in segments:
        return "which leads out of the directory"
    return "which has an empty part" if "" in segments or "." in segments else None


def check(listed: Iterable[Listed], selected: Iterable[Listed], where: str) -> None:
    """Refuse a listing that names a file outside its directory, or whose selected files would overwrite each other.

    `where` says whose listing it is. Raises DownloadError; nothing has been asked for by then.
    """
    for file in listed:
        if (reason := unsafe(file.name)) is not None:
            raise _refusal(where, f"{file.name!r}, {reason}")
    names: dict[str, str] = {}
    for file in selected:
        if file.kind != "blob":
            raise _refusal(where, f"{file.name!r}, which is no file but a {file.kind}")
        if (other := names.get(_folded(file.name))) is not None:
            raise _refusal(where, f"{other!r} and {file.name!r}, which are one file where case does not count")
        names[_folded(file.name)] = file.name
    for name in names.values():
        for parent in PurePosixPath(name).parents:
            if _folded(str(parent)) in names:
                raise _refusal(where, f"{str(parent)!r} as a file and as the directory of {name!r}")


def _folded(name: str) -> str:
    """What macOS and Windows take for the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def _refusal(where: str, what: str) -> DownloadError:
    return DownloadError(
        f"{where} lists {what}; nothing was fetched", hint="report it to the owner of the repository, or use another"
    )


def without_duplicates(listed: Mapping[str, Listed]) -> dict[str, Listed]:
    """Leave out weights that come a second time in another format: where there are `model*.safetensors`, as
    transformers names them, Mistral's `consolidated*` and variants such as `model.fp16.safetensors`; and where there is
    the whole `model.safetensors`, its shards and their index.
    """
    is_whole = "model.safetensors" in listed
    if not is_whole and not any(SHARD.fullmatch(name) for name in listed):
        return dict(listed)
    return {
        name: file
        for name, file in listed.items()
        if not SECOND.fullmatch(name)
        and not (is_whole and (SHARD.fullmatch(name) or name == "model.safetensors.index.json"))
    }


def clear(destination: Path, keep: Collection[str]) -> None:
    """Delete all files but those to `keep`: what was left from another revision, and the clients' bookkeeping."""
    shutil.rmtree(destination / ".cache", ignore_errors=True)
    for name, file in files_in(destination).items():
        if name not in keep:
            file.unlink()


def fault(file: Path, record: FileRecord, expected: Listed) -> str | None:
    """What is wrong with a file on disk, of that size and SHA-256, by the listing; None where nothing is.

    Only where the listing lacks a SHA-256, as for small files at Hugging Face, the file is read, for git's SHA-1.
    """
    pairs = {"bytes": (record.size, expected.size), "SHA-256": (record.sha256, expected.sha256)}
    if expected.sha256 is None and expected.git_sha1 is not None:
        from huggingface_hub.utils.sha import git_hash

        pairs["git hash"] = (git_hash(file.read_bytes()), expected.git_sha1)
    wrong = [(unit, got, due) for unit, (got, due) in pairs.items() if due is not None and got != due]
    return f"{expected.name} has {wrong[0][0]} {wrong[0][1]}, expected {wrong[0][2]}" if wrong else None
