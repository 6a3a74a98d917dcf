"""What the page tells of models, asked of the disk at every look: several people see the same."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from arriero import hub, settings
from arriero.errors import ArrieroError, NotFoundError
from arriero.hub.catalog import CATALOG, Origin, Source, lookup
from arriero.web import jobs
from arriero.web.backend import Choice

WORK = "arriero.web.shelf.work"
LICENCE = re.compile(r"^license:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A model on disk. Size in bytes, `window` in tokens, `when` it was fetched in seconds since the epoch.

    What the model does not say is None. `name` is that of its directory, `called` what a person calls it.
    """

    name: str
    called: str
    path: Path
    source: str
    revision: str
    size: int
    window: int | None
    licence: str | None
    when: float


def on_disk() -> list[OnDisk]:
    """The complete models on disk, by name."""
    return [_described(model) for model in hub.models()]


def _described(model: hub.StoredModel) -> OnDisk:
    when = (model.path / hub.store.MANIFEST).stat().st_mtime
    called, size = hub.name_of(model.path), model.bytes
    window, licence = _window(model.path), licence_of(model.path)
    return OnDisk(model.name, called, model.path, model.source, model.revision, size, window, licence, when)


def _window(path: Path) -> int | None:
    try:
        return hub.window(path)
    except ArrieroError:
        return None


def licence_of(path: Path) -> str | None:
    """A model's licence: what its card says, else the first line of its licence file, else None."""
    card = path / "README.md"
    if card.is_file():
        matter = card.read_text(encoding="utf-8", errors="replace").partition("---")[2].partition("\n---")[0]
        if match := LICENCE.search(matter):
            return match[1]
    for file in sorted(path.glob("LICENSE*")):
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), None)
    return None


def fetchable() -> list[Origin]:
    """What of the catalogue is neither on disk nor being fetched."""
    present = {model.name for model in hub.models()} | {job.folder.name for job in downloads() if job.running}
    return [origin for origin in CATALOG.values() if present.isdisjoint(origin.folders())]


def is_served(model: OnDisk, choices: Iterable[Choice]) -> bool:
    """Whether a model, or an adapter of it, answers in this process now."""
    names = {name for choice in choices for name in (choice.name, choice.parent) if name is not None}
    return bool(names & {model.name, model.called, str(model.path)})


def download(name: str, source: Source = "auto") -> jobs.Job:
    """Begin to download a model, or join the download of it in progress; NotFoundError for an unknown name."""
    origin = lookup(name.strip(), source)
    return jobs.start(
        _folder("downloads", origin.name), WORK, {"do": "download", "name": name.strip(), "source": source}
    )


def verify(model: OnDisk) -> jobs.Job:
    """Begin to compare a model's files with its manifest."""
    return jobs.start(_folder("verified", model.name), WORK, {"do": "verify", "name": model.name})


def downloads() -> list[jobs.Job]:
    """The downloads that run, or ended and were not put away, the latest first."""
    folders = sorted(_folder("downloads", "").glob("[!.]*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    return [job for folder in folders if (job := jobs.find(folder)) is not None]


def verification(model: OnDisk) -> jobs.Job | None:
    """The verification of a model that runs, or what the last one said of this download of it."""
    job = jobs.find(_folder("verified", model.name))
    if job is None or (job.folder / "about.json").stat().st_mtime < model.when:
        return None
    return job


def fetched(job: jobs.Job) -> int:
    """Bytes of a download on disk so far."""
    if "path" not in job.progress:
        return 0
    total = 0
    for file in hub.store.partial(Path(job.progress["path"])).rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # moved meanwhile
            continue
    return total


def remove(model: OnDisk, choices: Iterable[Choice]) -> None:
    """Delete a model from disk. Raises ArrieroError while it is served or downloaded, NotFoundError when it is gone."""
    if is_served(model, choices):
        raise ArrieroError(f"{model.called} is being served", hint="stop the server, or serve another model")
    if any(job.running and job.folder.name == model.name for job in downloads()):
        raise ArrieroError(f"{model.called} is being downloaded", hint="cancel the download first")
    try:
        hub.remove(hub.store.find(model.name))
    except FileNotFoundError as error:
        raise NotFoundError(f"{model.called} is gone already") from error
    jobs.forget(_folder("verified", model.name))


def _folder(kind: str, name: str) -> Path:
    return settings.cache_dir() / "page" / kind / name
