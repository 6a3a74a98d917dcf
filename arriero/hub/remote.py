"""The real ModelScope and Hugging Face clients, and what their errors mean in ours.

Only weights in safetensors and the text files beside them are asked for: no pickle, no code. Both clients resume a
broken download in the directory they are given and honour their own settings for endpoint, token and mirror.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from arriero.errors import AccessError, ArrieroError, DownloadError, NotFoundError, OfflineError, UsageError
from arriero.hub.catalog import Source
from arriero.hub.store import sha256

if TYPE_CHECKING:
    from modelscope_hub import HubApi

Kind = Literal["model", "dataset"]
WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "USE_POLICY*", "README.md"]
UNWANTED = ["original/*", "onnx/*", "*/*.safetensors"]
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".parquet")
DATA = [*(f"*{suffix}" for suffix in DATA_SUFFIXES), "README.md"]


def fetch(source: Source, repository: str, revision: str | None, destination: Path, *, kind: Kind = "model") -> str:
    """Download a repository's wanted files into `destination`; returns the revision that was fetched."""
    wanted, unwanted = (WANTED, UNWANTED) if kind == "model" else (DATA, [])
    with translated(source, repository):
        if source == "modelscope":
            chosen = revision or "master"
            modelscope_api().download_repo(
                repository,
                kind,
                revision=chosen,
                local_dir=str(destination),
                allow_patterns=wanted,
                ignore_patterns=unwanted,
            )
            return chosen
        from huggingface_hub import HfApi, snapshot_download

        info = HfApi().repo_info(repository, repo_type=kind, revision=revision, files_metadata=True)
        commit = info.sha or revision or "main"
        snapshot_download(
            repository,
            repo_type=kind,
            revision=commit,
            local_dir=destination,
            allow_patterns=wanted,
            ignore_patterns=unwanted,
        )
        listed = getattr(info, "siblings", None) or ()
        _compare(destination, {file.rfilename: file.lfs.sha256 for file in listed if file.lfs})
        return commit


def _compare(destination: Path, expected: Mapping[str, str]) -> None:
    """Hold large files against the hub's SHA-256, which its own client does not do; a wrong one is deleted."""
    for name, wanted in expected.items():
        file = destination / name
        if file.is_file() and (found := sha256(file)) != wanted:
            file.unlink()
            raise DownloadError(f"{name} arrived with SHA-256 {found}, the hub says {wanted}", hint="run it again")


def sizes(source: Source, repository: str, revision: str | None) -> dict[str, int]:
    """File name -> bytes of everything `fetch` would download."""
    from huggingface_hub.utils._paths import filter_repo_objects

    with translated(source, repository):
        if source == "modelscope":
            listed = modelscope_api().list_repo_files(repository, "model", revision=revision)
            found = {file.path: file.size for file in listed if file.type == "blob"}
        else:
            from huggingface_hub import HfApi

            info = HfApi().model_info(repository, revision=revision, files_metadata=True)
            found = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    wanted = set(filter_repo_objects(found, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    return {name: size for name, size in found.items() if name in wanted}


def modelscope_api() -> HubApi:
    """The ModelScope client; raises UsageError where it is not installed."""
    try:
        from modelscope_hub import HubApi
    except ImportError as error:
        raise UsageError(
            "downloading from ModelScope needs the package modelscope-hub",
            hint='pip install "arriero[modelscope]", or use --source huggingface',
        ) from error
    return HubApi()


@contextlib.contextmanager
def translated(source: Source, repository: str) -> Iterator[None]:
    """Turn what the clients raise into our errors, by what it means for the user."""
    try:
        yield
    except ArrieroError:
        raise
    except Exception as error:
        raise _meaning(source, repository, error) from error


def _meaning(source: Source, repository: str, error: Exception) -> ArrieroError:
    """Classify by exception name and HTTP status along the chain of causes: both clients wrap what they catch."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(cause)
    names = {name.__name__ for link in chain for name in type(link).__mro__}
    statuses = {getattr(getattr(link, "response", None), "status_code", None) for link in chain}
    where, detail = f"{repository} at {source}", textwrap.shorten(str(error), 160, placeholder=" …")
    if names & {"GatedRepoError", "PermissionDeniedError", "AuthenticationError"} or 403 in statuses:
        token = "hf auth login" if source == "huggingface" else "modelscope login"
        return AccessError(
            f"{where} needs a licence accepted or a token ({detail})",
            hint=f"accept the licence on the model's page, then run: {token}",
        )
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "NotExistError", "NotFoundError"}:
        return NotFoundError(f"{where} does not exist or is private ({detail})", hint="check the name and --revision")
    if names & {"HFValidationError", "InvalidParameter"}:
        return UsageError(f"{where} is not a valid repository id ({detail})")
    offline = {"ConnectError", "ConnectionError", "TimeoutException", "Timeout", "LocalEntryNotFoundError"}
    if names & (offline | {"OfflineModeIsEnabled", "NetworkError", "ProxyError"}):
        return OfflineError(f"{source} cannot be reached to fetch {repository} ({detail})", hint="check the network")
    return DownloadError(f"fetching {where} failed: {type(error).__name__}: {detail}", hint="run the command again")
