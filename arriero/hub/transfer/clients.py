"""How each hub's own client asks for a file: with its address, token, proxies, certificates and timeout.

The clients' sessions are used as they are, so whatever makes the client work makes this work: HF_ENDPOINT,
MODELSCOPE_ENDPOINT, HF_TOKEN, HTTPS_PROXY, SSL_CERT_FILE, REQUESTS_CA_BUNDLE, HF_HUB_DOWNLOAD_TIMEOUT,
MODELSCOPE_DOWNLOAD_TIMEOUT. Both drop the token where they are redirected to another host.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from arriero.errors import DownloadError, UsageError, retry_after
from arriero.hub.catalog import Source
from arriero.hub.transfer import caches
from arriero.hub.transfer.retry import Unavailable, is_busy

if TYPE_CHECKING:
    from modelscope_hub import HubApi

Kind = Literal["model", "dataset"]
BLOCK = 1 << 16  # bytes that requests hands over at once; of a broken connection's last block nothing is kept


class RangeRefused(Exception):
    """The hub has no bytes from there on (HTTP 416)."""


class ByClient(Exception):
    """The file comes only by a protocol that the client speaks, Xet."""


@dataclass(frozen=True, slots=True)
class Body:
    """An answer that holds a file, or the part asked for: HTTP status, headers by any case, content."""

    status: int
    headers: Mapping[str, str]
    chunks: Iterator[bytes]


class Files(Protocol):
    """The files of one repository at one revision; `where` says in words which."""

    where: str

    def open(self, name: str, size: int | None, headers: dict[str, str]) -> AbstractContextManager[Body]:
        """Ask for a file with these headers beside the client's own; `size` in bytes is what the listing says.

        Raises Unavailable, RangeRefused, ByClient, DownloadError where there is no such file, else the client's error.
        """

    def by_client(self, name: str, directory: Path) -> None:
        """Let the client fetch a file into a directory, under its name there."""

    def cached(self, name: str, hashes: tuple[str | None, ...]) -> Iterator[Path]:
        """Where the client may have kept a file of this name, or one of these hashes."""


def files_of(source: Source, repository: str, revision: str, kind: Kind) -> Files:
    """The files of a repository at a hub."""
    return (ModelScope if source == "modelscope" else HuggingFace)(repository, revision, kind)


class HuggingFace:
    """Files at Hugging Face, or at a mirror of it."""

    def __init__(self, repository: str, revision: str, kind: Kind, endpoint: str | None = None) -> None:
        self.where = f"{repository} at huggingface"
        self._repository, self._revision, self._kind, self._endpoint = repository, revision, kind, endpoint

    @contextmanager
    def open(self, name: str, size: int | None, headers: dict[str, str]) -> Iterator[Body]:
        """See `Files`."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they are exported lazily
            build_hf_headers,
            get_session,
            hf_raise_for_status,
        )

        url = hf_hub_url(self._repository, name, repo_type=self._kind, revision=self._revision, endpoint=self._endpoint)
        asked = get_session().stream(
            "GET", url, headers={**build_hf_headers(), **headers}, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
        with _entered(asked) as response:
            # Xet is named in the answer that redirects to the storage, or in the last where nothing redirects
            if any(needs_xet(hop.headers, size) for hop in (*response.history, response)):
                raise ByClient
            try:
                hf_raise_for_status(response)
            except Exception as error:
                wait = retry_after(response.headers.get("Retry-After"))
                raise _refusal(self.where, name, response.status_code, error, wait) from error
            yield Body(response.status_code, response.headers, _network(response.iter_bytes()))

    def by_client(self, name: str, directory: Path) -> None:
        """See `Files`."""
        from huggingface_hub import hf_hub_download

        kind, revision, endpoint = self._kind, self._revision, self._endpoint
        hf_hub_download(
            self._repository, name, repo_type=kind, revision=revision, endpoint=endpoint, local_dir=directory
        )

    def cached(self, name: str, hashes: tuple[str | None, ...]) -> Iterator[Path]:
        """See `Files`."""
        return caches.at_huggingface(self._repository, self._kind, hashes)


class ModelScope:
    """Files at ModelScope."""

    def __init__(self, repository: str, revision: str, kind: Kind, endpoint: str | None = None) -> None:
        self.where = f"{repository} at modelscope"
        self._repository, self._revision, self._kind = repository, revision, kind
        self._api = modelscope_api(endpoint)

    @contextmanager
    def open(self, name: str, size: int | None, headers: dict[str, str]) -> Iterator[Body]:
        """See `Files`."""
        try:
            answer = self._api.legacy.download_stream(self._repository, self._kind, name, self._revision, headers)
        except Exception as error:
            if (status := getattr(error, "status_code", None)) is not None:
                raise _refusal(self.where, name, status, error, getattr(error, "retry_after", None)) from error
            raise _unless_network(error) from error
        with answer as response:
            yield Body(response.status_code, response.headers, _network(response.iter_content(BLOCK)))

    def by_client(self, name: str, directory: Path) -> None:
        """See `Files`."""
        raise AssertionError(f"{self.where} has no Xet")

    def cached(self, name: str, hashes: tuple[str | None, ...]) -> Iterator[Path]:
        """See `Files`."""
        return caches.at_modelscope(self._repository, self._kind, name)


def modelscope_api(endpoint: str | None = None) -> HubApi:
    """The ModelScope client; raises UsageError where it is not installed."""
    try:
        from modelscope_hub import HubApi, HubConfig
    except ImportError as error:
        raise UsageError(
            "downloading from ModelScope needs the package modelscope-hub",
            hint='pip install "arriero[modelscope]", or use --source huggingface',
        ) from error
    return HubApi(HubConfig(), endpoint=endpoint)  # or it keeps the endpoint and the token that it had first


def needs_xet(headers: Mapping[str, str], size: int | None) -> bool:
    """Whether a file is left to the client because the endpoint's answer says that it is stored in Xet.

    Hugging Face serves those over plain HTTP too, where they can be resumed; not beyond 50 GB, and more slowly than
    HF_XET_HIGH_PERFORMANCE=1 asks for. Never at a mirror: Xet would go past it.
    """
    from huggingface_hub import constants

    home = constants.HUGGINGFACE_CO_URL_HOME.rstrip("/")
    is_possible = importlib.util.find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
    if constants.HUGGINGFACE_HEADER_X_XET_HASH not in headers or not is_possible or home != constants.ENDPOINT:
        return False
    return constants.HF_XET_HIGH_PERFORMANCE or (size or 0) > constants.MAX_HTTP_DOWNLOAD_SIZE


@contextmanager
def _entered(opening: AbstractContextManager[Any]) -> Iterator[Any]:
    """A context whose opening, and nothing later, may fail for the network."""
    # by hand, since in a `with` what the body raises would pass through the same `except`
    try:
        entered = opening.__enter__()
    except Exception as error:
        raise _unless_network(error) from error
    try:
        yield entered
    finally:
        opening.__exit__(None, None, None)


def _network(chunks: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from chunks
    except Exception as error:
        raise _unless_network(error) from error


def _unless_network(error: Exception) -> Exception:
    """Unavailable for what httpx or requests say of the network, any other error as it is."""
    names = {base.__name__ for base in type(error).__mro__}  # by name: neither library is imported for this
    return Unavailable(str(error) or type(error).__name__) if names & {"TransportError", "RequestException"} else error


def _refusal(where: str, name: str, status: int, error: Exception, wait: float | None) -> Exception:
    """What an answer of 400 and above means for one file; it may ask to `wait` some seconds."""
    if status == 416:  # the file has nothing behind what is here
        return RangeRefused()
    if is_busy(status):
        return Unavailable(f"HTTP {status}", wait)
    if status == 404:
        return DownloadError(
            f"{where} lists {name}, which is not there (HTTP 404)", hint="try another --source or --revision"
        )
    return error
