"""The inspect report as one HTML page: figures, pictures, rows with their tokens coloured. Needs no network."""

from __future__ import annotations

from collections.abc import Callable

from arriero.data.report import Report
from arriero.templates import render


def page(report: Report, token: Callable[[int], str], is_special: Callable[[int], bool]) -> str:
    """The whole page. `token` gives an id's text, `is_special` says whether it is a special token."""
    return render("inspect.html", report=report, token=token, is_special=is_special)
