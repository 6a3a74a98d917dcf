"""What tells two models' answers apart, for LangChain's caches, and what a model is called elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.chat import Chat
from arriero.engines.adapters import stamps

Contents = tuple[tuple[str, int, int], ...]


def contents(directory: Path | None) -> Contents:
    """What tells a directory's files from later ones of the same names: sizes and times of change.

    Without the inodes, which a copy or another mount changes: caches outlive both.
    """
    if directory is None:
        return ()
    return tuple((name, size, time) for name, (_, size, time) in stamps(directory, "*").items())


def identity(chat: Chat) -> dict[str, Any]:
    """All of a Chat that an answer depends on. Files are looked at, so that a model trained anew is another one."""
    own = chat.renderer
    model_dir = Path(own.tokenizer.name_or_path) if own.tokenizer.name_or_path else None
    adapter_dir = chat.adapter.directory if chat.adapter is not None else None
    return {
        "model": chat.model,
        "adapter": None if adapter_dir is None else str(adapter_dir),
        "files": hashlib.sha256(repr((contents(model_dir), contents(adapter_dir))).encode()).hexdigest(),
        "system": own.system,
        "template": dict(own.variables),
        "chat_template": own.template_sha256,
        "fold_system": own.fold_system,
        "engine": chat.engine.description,
        "defaults": chat.defaults,
    }


def portable(name_or_path: str | Path) -> str:
    """A name or a relative path as it is, and of an absolute path the name: it is this machine's."""
    path = Path(name_or_path).expanduser()
    return hub.name_of(path) if path.is_absolute() else str(name_or_path)
