"""Adapters by name: a PEFT adapter in a repository on either hub becomes a directory, fetched once.

owner/name              on Hugging Face; huggingface:owner/name says so
modelscope:owner/name
owner/name@revision     as it was at a commit or a tag
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from arriero import settings
from arriero.errors import NotFoundError, OfflineError, UsageError
from arriero.hub.adapter_files import CONFIG, WEIGHTS
from arriero.hub.catalog import Source, lookup, named
from arriero.hub.fetch import Fetched, download, once

log = logging.getLogger(__name__)


def adapter(name: str | Path) -> Path:
    """The directory of an adapter: a Path, or what looks like one, as it is; a name as above, fetched.

    Raises NotFoundError, AccessError, OfflineError, UsageError or DownloadError.
    """
    path = Path(name).expanduser()
    reference = named(name) if isinstance(name, str) else None
    if reference is None or path.exists() or path.parent.is_dir():
        return path.resolve()
    source, repository, revision = reference
    target = _home() / source / "@".join(filter(None, (repository, revision and revision.replace("/", "--"))))
    try:
        return once(target, f"the adapter {name}", lambda partial: _fetch(source, repository, revision, partial))
    except (NotFoundError, OfflineError) as error:
        raise type(error)(
            f"there is no directory {name}; as an adapter's name: {error.message}", hint=error.hint
        ) from None


def by_name(references: Iterable[tuple[str, str | Path]]) -> dict[str, Path]:
    """Directories of adapters by name, from (name, what `adapter` takes); without a name, "", by the directory's own.

    Raises UsageError where two have the same name, otherwise as `adapter`.
    """
    directories: dict[str, Path] = {}
    for name, reference in references:
        directory = adapter(reference)
        key = name or directory.name.partition("@")[0]
        if key in directories:
            raise UsageError(f"two adapters are called {key}", hint=f"--adapter OTHER={reference}")
        directories[key] = directory
    return directories


def is_fetched(adapter_dir: Path) -> bool:
    """Whether an adapter's directory came from a hub."""
    return adapter_dir.is_relative_to(_home())


def fetch_base(adapter_dir: Path, model: str) -> Path | None:
    """The base model, by its name, of an adapter that came from a hub; None where it did not. Raises as `download`.

    A name outside the catalogue is one on the hub that the adapter came from.
    """
    if not is_fetched(adapter_dir):
        return None
    source: Source = "modelscope" if adapter_dir.relative_to(_home()).parts[0] == "modelscope" else "huggingface"
    only_there = lookup(model, source).sources() == (source,)
    return Path(download(model, source=source if only_there else "auto").path)


def lacking(names: Iterable[str]) -> list[str]:
    """Which of the files that make a directory a PEFT adapter are not among `names`."""
    present = set(names)
    return [file for file in (CONFIG, WEIGHTS) if file not in present]


def _home() -> Path:
    return settings.home() / "hub-adapters"


def _fetch(source: Source, repository: str, revision: str | None, partial: Path) -> Fetched:
    from arriero.hub import remote

    if missing := lacking(remote.sizes(source, repository, revision)):  # a whole model is not fetched to find out
        raise NotFoundError(
            f"{repository} at {source} is no PEFT adapter in safetensors: it has no {' and no '.join(missing)}",
            hint="a model is given with --model",
        )
    log.info("fetching the adapter %s from %s", repository, source)
    exact, files = remote.fetch(source, repository, revision, partial)
    return source, exact, files
