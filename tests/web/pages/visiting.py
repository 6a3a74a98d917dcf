"""A page by itself in Streamlit's own test harness, for an administrator or for somebody else."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
from streamlit.testing.v1 import AppTest

import arriero.web
from arriero.web import jobs
from arriero.web.backend import Choice
from arriero.web.state import Site, Visitor, set_site

PAGES = Path(arriero.web.__file__).with_name("pages")


class Offering:
    """A backend that serves these names and answers nothing."""

    address = None

    def __init__(self, *choices: Choice) -> None:
        self._choices = list(choices)

    def choices(self) -> list[Choice]:
        return self._choices


def opened(name: str, *choices: Choice, admin: bool = True) -> AppTest:
    """The page, drawn once."""
    set_site(Site(Offering(*choices), lambda _: Visitor(admin=admin)))
    page = AppTest.from_file(PAGES / f"{name}.py", default_timeout=60).run()
    assert not page.exception
    return page


def drawn(page: AppTest) -> AppTest:
    """The page drawn again."""
    page.run()
    assert not page.exception
    return page


def after_jobs(page: AppTest, folder: Path) -> AppTest:
    """The page drawn again once every job in a folder of jobs has come to its end."""
    for process in folder.glob("*/process.json"):
        if (running := jobs.process_of(process.parent)) is not None:
            psutil.wait_procs([running], timeout=100)
    return drawn(page)


def text(page: AppTest) -> str:
    """Everything the page says, without the escapes of Markdown."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "text", "error", "info", "success")
    content = [element.value for kind in kinds for element in page.get(kind)]
    content += [element.proto.body for element in page.get("html")]
    return re.sub(r"\\([^A-Za-z0-9\s])", r"\1", "\n".join(map(str, content)))
