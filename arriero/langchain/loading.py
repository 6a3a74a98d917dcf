"""Chats that objects with equal settings share: weights are loaded once in a process, and go with the last holder.

    model directory, engine ─> engine, held by its Chats ─> adapter directory ─> Chat, held by objects

LangChain programs make models wherever they need one. Files are looked at before a Chat is shared, so that one that was
trained or downloaded anew is loaded anew.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from pathlib import Path

from arriero import hub
from arriero.chat import Chat, EngineName, load
from arriero.errors import EngineError

Stamp = tuple[tuple[str, int, int], ...]
Key = tuple[Path | None, Stamp, EngineName]
_bases: weakref.WeakValueDictionary[Key, Chat] = weakref.WeakValueDictionary()  # any Chat of the engine
_chats: weakref.WeakValueDictionary[tuple[Key, Path | None, Stamp], Chat] = weakref.WeakValueDictionary()
_lock = threading.RLock()  # held while weights load: who wants the same ones waits for them


def shared(model: str | Path | None, adapter: str | Path | None, engine: EngineName) -> Chat:
    """The Chat of these settings; loaded unless somebody in this process holds it. Raises what `arriero.load` does."""
    directory = None if model is None and adapter is not None else hub.resolve(model)  # None: the adapter's own
    adapter_dir = Path(adapter).expanduser().resolve() if adapter is not None else None
    key = directory, _stamp(directory), engine
    whole = key, adapter_dir, _stamp(adapter_dir)
    with _lock:
        chat = _chats.get(whole)
        if chat is None:
            chat = _chats[whole] = _loaded(key, adapter_dir)
        return chat


def _loaded(key: Key, adapter_dir: Path | None) -> Chat:
    directory, _, engine = key
    base = _bases.get(key)
    if base is not None:
        with contextlib.suppress(EngineError):  # one that was started without room for this adapter
            return base.with_adapter(adapter_dir)
    chat = _bases[key] = load(directory, adapter=adapter_dir, engine=engine)
    return chat


def _stamp(directory: Path | None) -> Stamp:
    """What tells a directory's files from later ones of the same names."""
    if directory is None or not directory.is_dir():
        return ()
    files = [(file.name, file.stat()) for file in sorted(directory.iterdir()) if file.is_file()]
    return tuple((name, found.st_size, found.st_mtime_ns) for name, found in files)
