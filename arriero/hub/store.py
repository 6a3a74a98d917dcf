"""What is on disk: one directory per model under `settings.models_dir()`, each with a manifest.

`arriero-model.json` is written last, so a directory that has one is complete. It lists size and SHA-256 of every
file as they were when the download finished; `verify` compares.

    NAME             a model, whole or absent
    .NAME.partial    a download in progress, or what it left for the next try
    .NAME.replaced   what NAME was, while its successor moves in
    .NAME.lock       held by the process that downloads, replaces or removes NAME; names that process
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from arriero import settings
from arriero.errors import DownloadError, NotFoundError
from arriero.hub.weights import index_faults
from arriero.locks import held

MANIFEST = "arriero-model.json"
BLOCK = 1 << 20  # bytes read at once
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model directory and what its manifest says; `bytes` is the sum over its files.

    `repository` is its id at the source; manifests from before that was noted have none.
    """

    name: str
    path: Path
    source: str
    revision: str
    files: dict[str, FileRecord] = field(repr=False)
    asked: str | None = None
    repository: str | None = None

    @property
    def bytes(self) -> int:
        """Total size in bytes."""
        return sum(record.size for record in self.files.values())


def is_model(path: Path) -> bool:
    """Whether a directory looks like a Hugging Face model: it has a config.json."""
    return (path / "config.json").is_file()


def has_weights(path: Path) -> bool:
    """Whether a directory holds safetensors weights."""
    return any(path.glob("*.safetensors"))


def files_in(path: Path) -> dict[str, Path]:
    """The files of a directory by name, without its manifest and the clients' bookkeeping."""
    return {
        str(file.relative_to(path)): file
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != MANIFEST and ".cache" not in file.relative_to(path).parts
    }


def blocks(file: Path) -> Iterator[bytes]:
    """The content of a file, a block at a time."""
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            yield block


def record(file: Path, check: Callable[[], object] = lambda: None) -> FileRecord:
    """Size and SHA-256 of a file as it is; `check` is called between blocks and may raise."""
    digest = hashlib.sha256()
    for block in blocks(file):
        check()
        digest.update(block)
    return FileRecord(file.stat().st_size, digest.hexdigest())


def sha256(file: Path) -> str:
    """SHA-256 of a file as hex."""
    return record(file).sha256


def write_manifest(
    path: Path,
    *,
    name: str,
    source: str,
    revision: str,
    asked: str | None = None,
    repository: str | None = None,
    files: dict[str, FileRecord] | None = None,
) -> StoredModel:
    """Write the manifest of a finished directory, and return it. Files that are not given are hashed: all of them.

    `asked` is the branch or tag that `revision` was found under.
    """
    if files is None:
        files = {key: record(file) for key, file in files_in(path).items()}
    listed = {key: asdict(value) for key, value in files.items()}
    known = {"name": name, "source": source, "revision": revision, "asked": asked, "repository": repository}
    document = {**known, "files": listed}
    (path / MANIFEST).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return StoredModel(name, path, source, revision, files, asked, repository)


def read_manifest(path: Path) -> StoredModel | None:
    """The manifest of a directory, None where there is none; raises DownloadError where it cannot be read."""
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        files = {key: FileRecord(**record) for key, record in document["files"].items()}
        asked, repository = document.get("asked"), document.get("repository")
        return StoredModel(document["name"], path, document["source"], document["revision"], files, asked, repository)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{file} is damaged: {error}", hint=f"arriero models remove {path.name}") from error


def models() -> list[StoredModel]:
    """All complete models on disk, by name; damaged ones are announced and left out."""
    root = settings.models_dir()
    replaced = [root / aside.stem.removeprefix(".") for aside in root.glob(".*.replaced")]
    candidates = []
    for path in sorted({*root.glob("[!.]*"), *replaced}):
        try:
            candidates.append(stored(path))
        except DownloadError as error:
            log.warning("%s; try: %s", error.message, error.hint)
    return [model for model in candidates if model is not None]


def find(name: str) -> StoredModel:
    """The stored model of that directory name, damaged or not; raises NotFoundError."""
    path = settings.models_dir() / name.replace("/", "--")
    try:
        if name not in ("", ".", "..") and (model := stored(path)) is not None:
            return model
    except DownloadError:
        return StoredModel(path.name, path, "damaged", "", {})
    raise NotFoundError(f"no model {name!r} on disk", hint="arriero models lists what is there")


def name_of(path: Path) -> str:
    """What to call the model of a directory: catalogue name, repository id, or the directory's name."""
    name = path.name
    return name.replace("--", "/", 1) if path.parent == settings.models_dir() else name


def path_of(path: Path) -> str | None:
    """Where a model's directory is; None where `name_of` it is enough to find it."""
    return None if path.parent == settings.models_dir() else str(path)


def verify(model: StoredModel) -> list[str]:
    """Compare every file with the manifest; returns a line for each difference, an empty list when all is well."""
    faults = [] if model.files else [f"{MANIFEST}: damaged"]
    for name, record in model.files.items():
        if (fault := _difference(model.path / name, name, record)) is not None:
            faults.append(fault)
        elif sha256(model.path / name) != record.sha256:
            faults.append(f"{name}: content differs from the manifest's SHA-256")
    return faults + index_faults(model.path)


def differences(model: StoredModel) -> list[str]:
    """What of `verify` takes no time: files that are missing or have another size, a line for each."""
    faults = (_difference(model.path / name, name, record) for name, record in model.files.items())
    return [fault for fault in faults if fault is not None]


def _difference(file: Path, name: str, record: FileRecord) -> str | None:
    if not file.is_file():
        return f"{name}: missing"
    size = file.stat().st_size
    return f"{name}: {size} bytes, expected {record.size}" if size != record.size else None


@contextmanager
def reserved(target: Path) -> Iterator[None]:
    """Keep other processes from downloading, replacing or removing `target` meanwhile; waits for one that does.

    What a crash within `replace` left is finished first: the earlier directory gets its name back, unless its
    successor has its name by then.
    """
    aside = _beside(target, "replaced")
    with held(_beside(target, "lock"), lambda holder: log.info("waiting for %s to finish %s", holder, target.name)):
        if aside.is_dir() and not target.exists():
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
        yield


def stored(target: Path) -> StoredModel | None:
    """`read_manifest`, after what a crash within `replace` left is finished."""
    if _beside(target, "replaced").is_dir():
        with reserved(target):
            pass
    return read_manifest(target)


def partial(target: Path) -> Path:
    """Where the download of `target` is made."""
    return _beside(target, "partial")


def _beside(target: Path, role: str) -> Path:
    """A name beside `target` that no model can have: those begin with a letter or a digit."""
    return target.with_name(f".{target.name}.{role}")


def replace(fresh: Path, target: Path) -> None:
    """Move the finished directory `fresh` to `target`, which is reserved; what was there goes only after that."""
    aside = _beside(target, "replaced")
    # a crash between these two renames leaves no `target`: `reserved` then gives `aside` its name back
    if target.exists():
        target.rename(aside)
    fresh.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def remove(model: StoredModel) -> None:
    """Delete a model's directory, at once under its name, and what was exported from it."""
    removed = _beside(model.path, "removed")
    with reserved(model.path):
        shutil.rmtree(removed, ignore_errors=True)  # by a removal that was killed
        model.path.rename(removed)
        shutil.rmtree(removed)
    for exported in (settings.cache_dir() / "openvino").glob(f"{model.path.name}-{'[0-9a-f]' * 12}-*"):
        shutil.rmtree(exported)


def fingerprint(path: Path) -> str:
    """A hash that tells two sets of weights apart without reading all of them: `sha256:` and 64 hex digits.

    Covers, for every safetensors file by name, its size, its header (tensor names, types, shapes) and 64 samples of
    4 KiB spread evenly over it: 16 GB take a few milliseconds instead of half a minute. It detects another model or
    a fine-tuned one, not a single flipped bit; that is what `verify` is for.
    """
    digest = hashlib.sha256()
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise NotFoundError(f"{path} holds no safetensors weights")
    for file in files:
        for chunk in _samples(file):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _samples(file: Path, count: int = 64, length: int = 4096) -> Iterable[bytes]:
    size = file.stat().st_size
    yield f"{file.name} {size}".encode()
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        yield stream.read(min(header, size))
        for index in range(count):
            stream.seek((size - length) * index // (count - 1) if size > length else 0)
            yield stream.read(length)
