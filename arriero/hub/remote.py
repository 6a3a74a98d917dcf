"""The real ModelScope and Hugging Face clients, and what their errors mean in ours.

Only weights in safetensors and the text files beside them are asked for: no pickle, no code. The clients list them,
with their own settings for endpoint, token and mirror; the listing is checked, and `transfer` fetches what it names.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path

from arriero.errors import ArrieroError, DownloadError, NotFoundError, OfflineError, UsageError
from arriero.hub import transfer
from arriero.hub.access import denied, redacted
from arriero.hub.catalog import Source
from arriero.hub.listing import DATA_SUFFIXES, Listed, check, clear, without_duplicates
from arriero.hub.store import MANIFEST, FileRecord
from arriero.hub.transfer import Watch
from arriero.hub.transfer.clients import Kind, modelscope_api

MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "USE_POLICY*", "README.md"]
BOOKKEEPING = [".cache/*", "*/.cache/*", MANIFEST, f"*/{MANIFEST}", "*.part"]  # of the clients, and our own
NOT_OF_MODELS = ["original/*", "onnx/*", "*/*.safetensors", *BOOKKEEPING]
DATA_FILES = [*(f"*{suffix}" for suffix in DATA_SUFFIXES), "README.md"]


def fetch(
    source: Source,
    repository: str,
    revision: str | None,
    destination: Path,
    *,
    kind: Kind = "model",
    watch: Watch = lambda _: None,
) -> tuple[str, dict[str, FileRecord]]:
    """Download the files of a repository that are of use into `destination`, which then holds nothing else.

    What an earlier call left there is resumed. Returns the revision that was fetched, and size and SHA-256 of each
    file. `watch` receives the progress.
    """
    with translated(source, repository, kind):
        exact, listed = _listed(source, repository, revision, kind)
        clear(destination, transfer.names(listed))
        records = transfer.fetch(transfer.files_of(source, repository, exact, kind), listed, destination, watch=watch)
        clear(destination, listed)
    return exact, records


def sizes(source: Source, repository: str, revision: str | None) -> dict[str, int]:
    """File name -> bytes of everything `fetch` would download."""
    with translated(source, repository):
        _, listed = _listed(source, repository, revision, "model")
    return {name: file.size or 0 for name, file in listed.items()}


def _listed(source: Source, repository: str, revision: str | None, kind: Kind) -> tuple[str, dict[str, Listed]]:
    """The exact revision, and by name the files of it that are of use; raises DownloadError for a name refused."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # it is exported lazily

    listing = _at_modelscope if source == "modelscope" else _at_huggingface
    exact, listed = transfer.retried(lambda: listing(repository, revision, kind), f"{repository} at {source}")
    allow, ignore = (MODEL_FILES, NOT_OF_MODELS) if kind == "model" else (DATA_FILES, BOOKKEEPING)
    selected = list(
        filter_repo_objects(listed, allow_patterns=allow, ignore_patterns=ignore, key=lambda file: file.name)
    )
    check(listed, selected, f"{repository} at {source}")
    return exact, without_duplicates({file.name: file for file in selected})


def _at_modelscope(repository: str, revision: str | None, kind: Kind) -> tuple[str, list[Listed]]:
    exact = revision or "master"
    files = modelscope_api().list_repo_files(repository, kind, revision=exact)
    return exact, [
        Listed(file.path, file.size or None, file.sha256, kind=file.type) for file in files if file.type != "tree"
    ]


def _at_huggingface(repository: str, revision: str | None, kind: Kind) -> tuple[str, list[Listed]]:
    from huggingface_hub import HfApi, constants

    info = HfApi().repo_info(
        repository, repo_type=kind, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    files = getattr(info, "siblings", None) or ()
    return info.sha or revision or "main", [
        Listed(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files
    ]


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
        return OfflineError(f"{source} cannot be reached for {repository} ({detail})", hint="check the network")
    return DownloadError(f"asking for {where} failed: {type(error).__name__}: {detail}", hint="run the command again")
