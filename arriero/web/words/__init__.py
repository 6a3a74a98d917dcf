"""Everything the page says, in English and Chinese: one table, of which each page's part is a file of this room.

    common.py    what several pages say
    chat.py      the conversation
    compare.py   answers side by side
    data.py      instruction files
    train.py     training runs
    options.py   the training options
    models.py    what is on disk

A key is `page.name`; its texts are (English, Chinese) and may hold `{fields}`. No page draws a text from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from arriero.web.words import chat, common, compare, data, models, train

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}
ROOMS = {"common": common, "chat": chat, "compare": compare, "data": data, "train": train, "models": models}
TABLE: Mapping[str, tuple[str, str]] = {
    f"{room}.{name}": texts for room, module in ROOMS.items() for name, texts in module.WORDS.items()
}
_language: ContextVar[Language] = ContextVar("language", default="en")


def say(key: str, **fields: object) -> str:
    """The text of `key` in the language that is spoken here, its fields filled in; KeyError where there is none."""
    english, chinese = TABLE[key]
    return (chinese if _language.get() == "zh" else english).format(**fields)


def speak(language: Language) -> None:
    """Speak this language from here on, in this script run or thread."""
    _language.set(language)


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Speak this language inside the block."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def preferred(locale: str | None) -> Language:
    """The language for a browser's locale, such as "zh-CN": Chinese for every Chinese one, else English."""
    return "zh" if (locale or "").lower().partition("-")[0] == "zh" else "en"
