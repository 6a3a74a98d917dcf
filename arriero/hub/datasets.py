"""Data sets by name: a repository's on either hub, a single file by its address, and public ones by a name of ours.

    owner/name                      on Hugging Face; huggingface:owner/name says so
    modelscope:owner/name
    owner/name@revision             as it was at a commit or a tag
    https://host/file.json          one file, kept as it is when it is fetched
    https://host/file.json#sha256=… and only with that content
    huanhuan                        see ALIASES

Each is fetched once, to a directory of its own with a manifest, as a model is.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from arriero import settings
from arriero.errors import ArrieroError, DownloadError, NotFoundError, OfflineError, UsageError
from arriero.hub import store
from arriero.hub.access import redacted
from arriero.hub.catalog import Source, named
from arriero.hub.fetch import Fetched, once
from arriero.hub.listing import DATA_SUFFIXES, unsafe

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alias:
    """A public data set that tutorials use: where it is, and what one should know of its licence."""

    address: str
    licence: str


ALIASES = {
    "huanhuan": Alias(
        "https://raw.githubusercontent.com/datawhalechina/self-llm/master/dataset/huanhuan.json"
        "#sha256=1a0172c731eee506fb58f888f5efd953f7bb183f416affecbe3f93dbb9596a34",
        "from datawhalechina/self-llm, which is under Apache-2.0; its lines are those of a television series, "
        "whose owners may have rights in them: to learn with, not to publish",
    )
}


def dataset(name: str) -> Path:
    """The directory of a data set, by a name as above; fetched once.

    Raises NotFoundError, AccessError, OfflineError, UsageError or DownloadError.
    """
    if (alias := ALIASES.get(name)) is not None:
        log.info("%s: %s", name, alias.licence)
        name = alias.address
    if "://" in name:
        return _at_address(name)
    if (reference := named(name)) is None:
        raise NotFoundError(
            f"no file or directory {name}, and it is not a data set's name",
            hint="give a path, owner/name for Hugging Face, modelscope:owner/name, or the address of a file",
        )
    source, repository, revision = reference
    folder = "@".join(filter(None, (repository, revision))).replace("/", "--")
    target = settings.home() / "datasets" / source / folder
    return once(target, f"the data set {name}", lambda partial: _repository(source, repository, revision, partial))


def _repository(source: Source, repository: str, revision: str | None, partial: Path) -> Fetched:
    from arriero.hub import remote

    log.info("fetching the data set %s from %s", repository, source)
    exact, files = remote.fetch(source, repository, revision, partial, kind="dataset")
    if not any(name.endswith(DATA_SUFFIXES) for name in files):
        raise DownloadError(f"{repository} at {source} has no {', '.join(DATA_SUFFIXES)} file")
    return source, exact, files


def _at_address(address: str) -> Path:
    """The directory that holds the one file at an address."""
    url, _, sha256 = address.partition("#sha256=")
    address_parts = urlsplit(url)
    file = PurePosixPath(unquote(address_parts.path)).name
    if (
        address_parts.scheme not in ("http", "https")
        or not file.lower().endswith(DATA_SUFFIXES)
        or unsafe(file) is not None
    ):
        raise UsageError(
            f"{redacted(url)} is not the address of a data file",
            hint=f"give https://…, ending in one of {', '.join(DATA_SUFFIXES)}",
        )
    if "#" in address and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(f"{redacted(address)}: after # comes sha256= and 64 hex digits", hint=f"sha256sum {file}")
    target = settings.home() / "datasets" / "url" / f"{file}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
    return once(target, redacted(url), lambda partial: _file(url, partial / file, sha256), resume=False)


def _file(url: str, file: Path, sha256: str) -> Fetched:
    log.info("fetching %s", redacted(url))
    _save(url, file)
    actual = store.record(file)
    if sha256 not in ("", actual.sha256):
        raise DownloadError(
            f"{redacted(url)} has SHA-256 {actual.sha256}, expected {sha256}",
            hint="it has changed: look at it, and give its new hash",
        )
    return redacted(url), f"sha256:{actual.sha256}", {file.name: actual}


def _save(url: str, file: Path) -> None:
    from huggingface_hub import get_session

    try:
        with get_session().stream("GET", url, follow_redirects=True) as response, file.open("wb") as stream:
            _check(response.status_code, response.headers.get("Content-Type", ""), redacted(url))
            for chunk in response.iter_bytes():
                stream.write(chunk)
    except ArrieroError:
        raise
    except Exception as error:
        hint = "check the address and the network"
        raise OfflineError(f"{redacted(url)} cannot be fetched: {redacted(str(error))}", hint=hint) from error


def _check(status: int, kind: str, url: str) -> None:
    if status in (404, 410):
        raise NotFoundError(f"there is nothing at {url}", hint="check the address")
    if status != 200 or kind.startswith("text/html"):
        what = f"answers with status {status}" if status != 200 else "is a web page, not a data file"
        raise DownloadError(f"{url} {what}", hint="give the address of the file itself, often behind a button Raw")
