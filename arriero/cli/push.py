"""push: an adapter to a hub."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from arriero import hub
from arriero.cli import output
from arriero.cli.options import Json, examples
from arriero.hub.push import Hub

app = App(
    name="push",
    help_epilogue=examples(
        "push runs/mine me/my-adapter",
        "push runs/mine me/my-adapter --publish",
        "push runs/mine me/my-adapter --to modelscope --publish --public",
    ),
)


@app.default
def push(
    directory: Path,
    name: str,
    /,
    *,
    to: Hub = "huggingface",
    publish: bool = False,
    public: bool = False,
    as_json: Json = False,
) -> None:
    """Upload an adapter to a hub; without --publish, say what would be uploaded.

    Uploaded are the weights, the configuration, the prompt contract, in which a conversation of the training data is
    quoted, and the model card; no checkpoint, no other data, no path of this machine.

    Parameters
    ----------
    directory
        Adapter directory: the --output of `arriero train`.
    name
        Repository owner/name. It is made where there is none.
    to
        The hub.
    publish
        Upload, and not only say what would be.
    public
        Let everybody see a repository that is made now.

    """
    done = hub.push.push(directory.expanduser(), name, to=to, private=not public, dry_run=not publish)
    if as_json:
        output.document(done)
        return
    for file, size in done.files.items():
        print(f"{file:28} {output.size(size):>9}")
    print(f"{'uploaded to' if publish else 'would be uploaded to'} {done.page}")
    if not publish:
        seen = "everybody sees" if public else "only you see"
        output.note(f"nothing was uploaded; a repository that is made now {seen}; to upload: the same with --publish")
