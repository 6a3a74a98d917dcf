"""Why a hub does not give a repository's files, and what to do about it. Tokens are never part of what is said.

    no token            log in
    a wrong token       make another
    a weak token        let it read gated repositories
    no licence          accept it on the repository's page
    no answer yet       wait for the owners; or they said no

Hugging Face says which in the header X-Error-Message, whose texts are looked for here; ModelScope in its answer's body.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from arriero.errors import AccessError, ArrieroError
from arriero.hub.catalog import CATALOG, Source
from arriero.hub.sources import endpoint, page

LOGIN = {"huggingface": "hf auth login", "modelscope": "modelscope login"}
TOKENS = {"huggingface": "settings/tokens", "modelscope": "my/access/token"}  # below the endpoint
SECRETS = re.compile(r"(?<=://)[^/\s@]+@|\b(?:hf|ms|api_org)[_-][\w-]{8,}|(?<=Bearer )\S+|(?<=token=|on_id=)[^\s;&]+")


def redacted(text: str) -> str:
    """The same text without tokens, and without the user and the password of an address."""
    for secret in filter(None, map(_token, LOGIN)):
        text = text.replace(secret, "***")
    return SECRETS.sub("***", text)


def _token(source: str) -> str | None:
    """The token that is sent to a hub, None where none is."""
    if source == "huggingface":
        from huggingface_hub import get_token

        return get_token()
    from importlib.util import find_spec

    if find_spec("modelscope_hub") is None:
        return os.environ.get("MODELSCOPE_API_TOKEN")
    from modelscope_hub.config import HubConfig

    token: str | None = HubConfig().token
    return token


def denied(source: Source, repository: str, kind: str, chain: Sequence[BaseException]) -> ArrieroError:
    """The error for a hub's refusal, whose exceptions from the outermost to its cause are `chain`."""
    reports = " ".join(filter(None, (_report(error) for error in chain)))
    statuses = {getattr(getattr(error, "response", None), "status_code", None) for error in chain}
    statuses |= {getattr(error, "status_code", None) for error in chain}
    what, todo = _cause(source, reports, unauthorised=401 in statuses)
    where = page(source, repository, kind)
    hint = todo.format(page=where, tokens=f"{endpoint(source)}/{TOKENS[source]}", login=LOGIN[source])
    return AccessError(f"{repository} at {source}: {what}", hint=hint + _elsewhere(source, repository))


def _report(error: BaseException) -> str:
    """What an error says, and the header that says why, in lower case."""
    response = getattr(error, "response", None)
    header = response.headers.get("X-Error-Message", "") if response is not None else ""
    return f"{error} {header}".lower()


def _cause(source: Source, reports: str, *, unauthorised: bool) -> tuple[str, str]:
    """What is missing, and what to do, in which {page}, {tokens} and {login} are filled in."""
    if _token(source) is None:
        return "it needs an account, and you are not logged in", "accept the licence at {page}, then run: {login}"
    if "fine-grained" in reports:
        return (
            "your token may not read gated repositories",
            "tick 'Read access to contents of all public gated repos' at {tokens}, then run the command again",
        )
    if "awaiting a review" in reports:
        return "its owners have not answered your request yet", "see {page}; run the command again once they have"
    if "rejected" in reports:
        return "its owners rejected your request", "see {page}"
    if unauthorised:
        return "your token is not valid", "make another at {tokens}, then run: {login}"
    return (
        "your account has not accepted its licence",
        "accept it at {page} as the user whose token this is, then run the command again",
    )


def _elsewhere(source: Source, repository: str) -> str:
    """That ModelScope has the same weights, where it has."""
    for origin in CATALOG.values():
        if source == "huggingface" and repository == origin.huggingface and origin.modelscope is not None:
            return f"; ModelScope has the same weights: arriero download {origin.name} --source modelscope"
    return ""
