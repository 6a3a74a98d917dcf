"""What stands behind the page. Streamlit runs its script anew for every visit and click, so the page looks it up here.

One process serves one page (Streamlit's own limit), so there is one site to hold; `mount` sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arriero.errors import UsageError

if TYPE_CHECKING:
    from arriero.web.backend import Backend


@dataclass(frozen=True, slots=True)
class Visitor:
    """One person. `owner` is whose conversations these are: None is who sits at this machine, as in the terminal.

    `admin` may train, change data and models.
    """

    owner: str | None = None
    admin: bool = True


def _anybody(_: Mapping[str, str]) -> Visitor:
    return Visitor()


@dataclass(frozen=True, slots=True)
class Site:
    """The models behind the page, and who a visitor is by the headers that his browser sends.

    `adopt` serves an adapter's directory under a name from now on; None where the models are another server's.
    """

    backend: Backend
    visitor: Callable[[Mapping[str, str]], Visitor] = _anybody
    adopt: Callable[[str, Path], object] | None = None


_site: list[Site] = []


def set_site(site: Site) -> None:
    """Let the page answer with this."""
    _site[:] = [site]


def get_site() -> Site:
    """What the page answers with now; raises UsageError before `set_site`."""
    if not _site:
        raise UsageError("the page has no model to answer with", hint="start it with `arriero serve`")
    return _site[0]
