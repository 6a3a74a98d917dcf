"""chat: a conversation in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.early import check
from arriero.cli.options import ModelOptions, examples, plain
from arriero.errors import ArrieroError, UsageError
from arriero.messages import Sampling

if TYPE_CHECKING:
    from arriero.chat import Chat
    from arriero.history import History

MODEL = ModelOptions()
SAMPLING = Sampling()
app = App(
    name="chat",
    help_epilogue=examples(
        "chat", "chat --continue", "chat --adapter runs/llama-driver", 'chat --system "Answer in one sentence."'
    ),
)


@app.default
def chat(
    *,
    model: ModelOptions = MODEL,
    sampling: Annotated[Sampling, Parameter(name="*")] = SAMPLING,
    go_on: Annotated[bool, Parameter(name=["--continue", "-c"])] = False,
    resume: int | None = None,
    no_history: Annotated[bool, Parameter(name="--no-history")] = False,
    as_text: Annotated[bool, Parameter(name="--plain")] = False,
) -> None:
    """Talk in the terminal; /help there lists what you can do.

    Parameters
    ----------
    go_on
        Go on with the last conversation, with its model and adapter unless others are given.
    resume
        Go on with the conversation of this number, as /history lists them.
    no_history
        Keep nothing of this conversation.
    as_text
        Show answers as they are instead of as Markdown.

    """
    check(adapter=model.adapter, model=model.model)
    from arriero.history import SavedConversation
    from arriero.terminal import converse

    if no_history and (go_on or resume is not None):
        raise UsageError("--no-history keeps nothing, so there is nothing to go on with")
    history = None if no_history else _history(needed=go_on or resume is not None)
    resumed = history.get(resume) if history is not None and (go_on or resume is not None) else None
    if resumed is not None and model.model is None and model.adapter is None:
        model = replace(model, model=resumed.model, adapter=resumed.adapter)
    if resumed is not None and model.system is not None:
        resumed = replace(resumed, system=model.system)
    loaded = load_chat(replace(model, system=None))  # the conversation has it, so that /system may take it back
    new = SavedConversation(_lasting(model.model) or loaded.model, _lasting(model.adapter), model.system)
    try:
        converse(loaded, sampling, history=history, new=new, resumed=resumed, plain=as_text)
    finally:
        loaded.close()
        if history is not None:
            history.close()


def _lasting(name: str | None) -> str | None:
    """A model's or an adapter's name as it is still understood in another directory."""
    path = Path(name).expanduser() if name is not None else None
    return str(path.resolve()) if path is not None and path.is_dir() else name


def _history(*, needed: bool) -> History | None:
    """The saved conversations; None, and a warning, where none can be kept and none is needed."""
    from arriero.history import History

    try:
        return History()
    except ArrieroError as error:
        if needed:
            raise
        output.note(f"warning: {error.message}; nothing will be kept")
        return None


def load_chat(options: ModelOptions, rehearse: Callable[[Chat], object] | None = None) -> Chat:
    """Load what the options name; `rehearse` is as in `arriero.chat.load`."""
    from arriero.chat import load

    chosen: dict[str, Any] = plain(options)
    return load(chosen.pop("model"), rehearse=rehearse, **chosen)
