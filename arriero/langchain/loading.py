"""Chats that objects with equal settings share: weights are loaded once in a process, and go with the last holder.

    model directory, engine ─> engine, held by its Chats ─> adapter directory ─> Chat, held by objects

LangChain programs make models wherever they need one. Files are looked at before a Chat is shared, so that one that was
trained or downloaded anew is loaded anew.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import defaultdict
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.chat import Chat, EngineName, load
from arriero.errors import ArrieroError, MemoryLimitError
from arriero.langchain.identity import contents
from arriero.prompt import PromptSettings

Key = tuple[Any, ...]
_of_engine: defaultdict[Key, weakref.WeakSet[Chat]] = defaultdict(weakref.WeakSet)
_chats: weakref.WeakValueDictionary[Key, Chat] = weakref.WeakValueDictionary()
_lock = threading.Lock()  # held while weights load: who wants the same ones waits for them


def shared(model: str | Path | None, adapter: str | Path | None, engine: EngineName, prompting: PromptSettings) -> Chat:
    """The Chat of these settings; loaded unless somebody in this process holds it. Raises what `arriero.load` does."""
    model_dir = None if model is None and adapter is not None else hub.resolve(model)  # None: the adapter's own
    adapter_dir = hub.adapter(adapter) if adapter is not None else None
    weights = engine, model_dir, contents(model_dir)
    key = *weights, adapter_dir, contents(adapter_dir), json.dumps(prompting, sort_keys=True, default=str)
    with _lock:
        chat = _chats.get(key)
        if chat is None or not chat.engine.alive:
            others = [chat for chat in _of_engine[weights] if chat.engine.alive]
            chat = _chats[key] = _made(others, model_dir, adapter_dir, engine, prompting)
            _of_engine[weights].add(chat)
        return chat


def _made(
    others: list[Chat], model_dir: Path | None, adapter_dir: Path | None, engine: EngineName, prompting: PromptSettings
) -> Chat:
    """A Chat over the engine of one of the others, or else over a new one.

    An engine may have been started without room for the adapter, or have another base model where that is not named.
    """
    for other in {id(other.engine): other for other in others}.values():
        try:
            return other.with_adapter(adapter_dir, **prompting)
        except MemoryLimitError:
            raise
        except ArrieroError:  # `load` says what is wrong, if anything is
            continue
    return load(model_dir, adapter=adapter_dir, engine=engine, **prompting)
