"""docs/cli.md: the help page of every verb, as Markdown. `python -m tests.cli.reference` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from arriero.cli.main import VERBS, app

FILE = Path(__file__).parents[2] / "docs" / "cli.md"
NOTE = "<!-- Written by `python -m tests.cli.reference` from the help pages; a test compares. -->\n\n"


def reference() -> str:
    """The pages in the order of `arriero --help`'s source, each with the examples that cyclopts leaves out."""
    for verb in VERBS:
        app[verb].help = None  # its page is its docstring, as when it is called
    whole = app.generate_docs(output_format="markdown", recursive=True)
    # What a nested command inherits when it is called: the name of its parent, and that switches have no negative.
    whole = re.sub(r"^(arriero models \w+) .*?(?=\[OPTIONS\])", r"\1 ", whole, flags=re.MULTILINE).replace(
        ", --no-json`", "`"
    )
    contents = re.sub(r"^## Table of Contents\n.*?(?=^\*\*Commands)", "", whole, flags=re.MULTILINE | re.DOTALL)
    pages = re.split(r"^(?=## )", contents, flags=re.MULTILINE)
    verbs = (page for page in pages if not page.startswith("## arriero --"))  # that one names the program that runs
    lines = "".join(map(_with_examples, verbs)).splitlines()
    return NOTE + "\n".join(line.rstrip() for line in lines) + "\n"


def _with_examples(page: str) -> str:
    verb = page.partition("\n")[0].removeprefix("## arriero").removeprefix("# arriero").strip()
    epilogue = (app[verb] if verb in VERBS else app).help_epilogue
    return (
        page if verb.startswith("-") or not isinstance(epilogue, str) else f"{page.rstrip()}\n\n{epilogue.strip()}\n\n"
    )


if __name__ == "__main__":
    FILE.write_text(reference(), encoding="utf-8")
