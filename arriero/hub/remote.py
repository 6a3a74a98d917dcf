"""The real ModelScope and Hugging Face clients, and what their errors mean in ours.

Only weights in safetensors and the text files beside them are asked for: no pickle, no code. Both clients resume a
broken download in the directory they are given and honour their own settings for endpoint, token and mirror. They are
asked for the files of a listing that was checked before, and what they bring is held against it.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arriero.errors import ArrieroError, DownloadError, NotFoundError, OfflineError, UsageError
from arriero.hub.access import denied, redacted
from arriero.hub.catalog import Source
from arriero.hub.listing import Listed, arrived, check
from arriero.hub.store import MANIFEST, FileRecord

if TYPE_CHECKING:
    from modelscope_hub import HubApi

log = logging.getLogger(__name__)
Kind = Literal["model", "dataset"]
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "USE_POLICY*", "README.md"]
KEPT_HERE = [".cache/*", "*/.cache/*", MANIFEST, f"*/{MANIFEST}"]  # what the clients and Arriero write themselves
UNWANTED = ["original/*", "onnx/*", "*/*.safetensors", *KEPT_HERE]
DATA = ["*.json", "*.jsonl", "*.ndjson", "*.csv", "*.parquet", "README.md"]


def fetch(
    source: Source, repository: str, revision: str | None, destination: Path, *, kind: Kind = "model"
) -> tuple[str, dict[str, FileRecord]]:
    """Download a repository's wanted files into `destination`, which then holds them and nothing else.

    Returns the revision that was fetched, and size and SHA-256 of each file.
    """
    with translated(source, repository, kind):
        exact, listed = _listed(source, repository, revision, kind)
        if source == "modelscope":
            files = [{"Path": file.name, "Size": file.size, "Sha256": file.sha256} for file in listed.values()]
            modelscope_api().download_repo(
                repository, kind, revision=exact, local_dir=str(destination), file_list=files
            )
        else:
            from huggingface_hub import snapshot_download

            # it lists for itself, or remembers how it did: so it receives the checked names, and lists anew
            names = [glob.escape(name) for name in listed]
            shutil.rmtree(destination / ".cache" / "huggingface" / "trees", ignore_errors=True)
            snapshot_download(repository, repo_type=kind, revision=exact, local_dir=destination, allow_patterns=names)
    log.info("hashing what was fetched")
    return exact, arrived(destination, listed, f"{repository} at {source}")


def sizes(source: Source, repository: str, revision: str | None) -> dict[str, int]:
    """File name -> bytes of everything `fetch` would download."""
    with translated(source, repository):
        _, listed = _listed(source, repository, revision, "model")
    return {name: file.size or 0 for name, file in listed.items()}


def _listed(source: Source, repository: str, revision: str | None, kind: Kind) -> tuple[str, dict[str, Listed]]:
    """The exact revision, and by name the files of it that are wanted; raises DownloadError for one that may not be."""
    from huggingface_hub.utils._paths import filter_repo_objects

    exact, listed = (_at_modelscope if source == "modelscope" else _at_huggingface)(repository, revision, kind)
    patterns, unwanted = (WANTED, UNWANTED) if kind == "model" else (DATA, KEPT_HERE)
    selected = list(
        filter_repo_objects(listed, allow_patterns=patterns, ignore_patterns=unwanted, key=lambda file: file.name)
    )
    check(listed, selected, f"{repository} at {source}")
    return exact, {file.name: file for file in selected}


def _at_modelscope(repository: str, revision: str | None, kind: Kind) -> tuple[str, list[Listed]]:
    exact = revision or "master"
    files = modelscope_api().list_repo_files(repository, kind, revision=exact)
    return exact, [
        Listed(file.path, file.size or None, file.sha256, kind=file.type) for file in files if file.type != "tree"
    ]


def _at_huggingface(repository: str, revision: str | None, kind: Kind) -> tuple[str, list[Listed]]:
    from huggingface_hub import HfApi

    info = HfApi().repo_info(repository, repo_type=kind, revision=revision, files_metadata=True)
    files = getattr(info, "siblings", None) or ()
    return info.sha or revision or "main", [
        Listed(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files
    ]


def modelscope_api() -> HubApi:
    """The ModelScope client; raises UsageError where it is not installed."""
    try:
        from modelscope_hub import HubApi, HubConfig
    except ImportError as error:
        raise UsageError(
            "downloading from ModelScope needs the package modelscope-hub",
            hint='pip install "arriero[modelscope]", or use --source huggingface',
        ) from error
    return HubApi(HubConfig())  # or it keeps the endpoint and the token that it had first


@contextlib.contextmanager
def translated(source: Source, repository: str, kind: Kind = "model") -> Iterator[None]:
    """Turn what the clients raise into our errors, by what it means for the user."""
    try:
        yield
    except ArrieroError:
        raise
    except Exception as error:
        raise _meaning(source, repository, error, kind) from error


def _meaning(source: Source, repository: str, error: Exception, kind: Kind) -> ArrieroError:
    """Classify by exception name and HTTP status along the chain of causes: both clients wrap what they catch."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    names = {name.__name__ for link in chain for name in type(link).__mro__}
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}
    where, detail = f"{repository} at {source}", textwrap.shorten(redacted(str(error)), 160, placeholder=" …")
    refused = {"GatedRepoError", "PermissionDeniedError", "AuthenticationError"}
    private = "RepositoryNotFoundError"  # also a 401, of what may be there and not for us
    if names & refused or (statuses & {401, 403} and private not in names):
        return denied(source, repository, kind, chain)
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "NotExistError", "NotFoundError"}:
        return NotFoundError(f"{where} does not exist or is private ({detail})", hint="check the name and --revision")
    if names & {"HFValidationError", "InvalidParameter"}:
        return UsageError(f"{where} is not a valid repository id ({detail})")
    offline = {"ConnectError", "ConnectionError", "TimeoutException", "Timeout", "LocalEntryNotFoundError"}
    if names & (offline | {"OfflineModeIsEnabled", "NetworkError", "ProxyError"}):
        return OfflineError(f"{source} cannot be reached to fetch {repository} ({detail})", hint="check the network")
    return DownloadError(f"fetching {where} failed: {type(error).__name__}: {detail}", hint="run the command again")
