"""Where the hubs are, which of them answers first, and whether the network may be used at all.

HF_ENDPOINT, MODELSCOPE_ENDPOINT        mirrors, for everything that is asked of a hub
HTTPS_PROXY, HTTP_PROXY, NO_PROXY       as both clients, and curl, have them
SSL_CERT_FILE, REQUESTS_CA_BUNDLE       a private CA: either name counts for both clients
HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE    nothing is asked of anything
LC_ALL, LC_MESSAGES, LANG               in a Chinese locale ModelScope comes first
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading

from arriero.errors import OfflineError
from arriero.hub.catalog import Source

ENDPOINTS = {
    "huggingface": ("HF_ENDPOINT", "https://huggingface.co"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "https://modelscope.cn"),
}
PATIENCE = 5.0  # seconds to wait for the first answer
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # what httpx reads, and what requests reads


def endpoint(source: Source) -> str:
    """The address of a hub, or of the mirror that stands in for it, without a slash at its end."""
    variable, default = ENDPOINTS[source]
    return (os.environ.get(variable) or default).rstrip("/")


def page(source: Source, repository: str, kind: str = "model") -> str:
    """The address of a repository's page, for a person to open."""
    folder = f"{kind}s/" if source == "modelscope" or kind == "dataset" else ""
    return f"{endpoint(source)}/{folder}{repository}"


def offline() -> str | None:
    """The variable that forbids every request, None where none does."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in names if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def allow(what: str) -> None:
    """Get ready to use the network; raises OfflineError, which says `what` needs it, where that is forbidden.

    Both hubs' clients then trust the same certificates.
    """
    if (variable := offline()) is not None:
        raise OfflineError(f"{what} needs the network, which {variable} forbids", hint=f"unset {variable}")
    if (given := next(filter(None, map(os.environ.get, CERTIFICATES)), None)) is not None:
        os.environ.update({variable: given for variable in CERTIFICATES if not os.environ.get(variable)})


def ordered(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The sources in the order to try them: the hub that answers first, or in a Chinese locale ModelScope, leads.

    A hub's `sources` come with ModelScope before Hugging Face; a wheel is no hub and stays where it is.
    """
    if not {"modelscope", "huggingface"} <= set(sources) or _speaks_chinese():
        return sources
    first = _first_to_answer(sources)
    return tuple(sorted(sources, key=lambda source: source == "modelscope")) if first == "huggingface" else sources


def _speaks_chinese() -> bool:
    variables = map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next(filter(None, variables), "").lower().startswith("zh")


def _first_to_answer(sources: tuple[Source, ...]) -> Source | None:
    """The hub whose front page comes first, whatever it holds; None where none does within PATIENCE."""
    answers: queue.SimpleQueue[Source] = queue.SimpleQueue()
    hubs = [source for source in sources if source in ENDPOINTS]
    for source in hubs:
        threading.Thread(target=_ask, args=(source, answers), daemon=True).start()
    try:
        return answers.get(timeout=PATIENCE)
    except queue.Empty:
        return None


def _ask(source: Source, answers: queue.SimpleQueue[Source]) -> None:
    from huggingface_hub import get_session

    with contextlib.suppress(Exception):  # whatever it is, this hub has not answered
        if not get_session().head(endpoint(source), timeout=PATIENCE).is_error:  # it may redirect
            answers.put(source)
