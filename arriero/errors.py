"""Every error Arriero raises on purpose.

    ArrieroError                    exit code 1: something went wrong and this is what to do about it
    ├── UsageError                  2: an argument makes no sense
    │   ├── ContextLengthError      2: the prompt does not fit the model's window
    │   ├── TooLongError            2: a text does not fit the embedding model's window
    │   └── UnsupportedError        2: the engine does not do what a request asks for
    ├── DataError                   1: a data file cannot be used; carries file and row
    ├── ContractError               1: an adapter was trained for another model or another prompt
    ├── CutOffError                 1: an answer that has to be complete ended before it was
    ├── EngineError                 1: the engine failed or lacks what was asked of it
    │   ├── BusyError               1: a server cannot answer now and may be able to later
    │   ├── EngineLostError         1: the process or the machine that computed the answer is gone
    │   └── ExportError             1: a model cannot be made into what the engine computes with
    ├── DownloadError               1: a download failed or did not verify
    │   └── DiskSpaceError          1: the disk is full, or would be
    ├── PartlyDoneError             3: some of the work failed, the rest is done
    ├── NotFoundError               4: no such model, file or directory
    ├── AccessError                 5: a licence has to be accepted or a token given
    ├── MemoryLimitError            6: out of memory
    ├── OfflineError                7: not on disk and the network cannot be reached
    └── InterruptedRun              130: stopped by the user, work saved

Library code raises these and never prints or exits; the command line turns them into a message and
`exit_code`, the server into an HTTP status.
"""

from __future__ import annotations

import email.utils
import errno
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: no space left, on the disk or for this user


class ArrieroError(Exception):
    """Base of all errors raised on purpose.

    `message` says what happened, what was got and what was expected; `hint` names the next thing to try.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> Any:
        """As it is, into another process: the classes below are not made from their message alone."""
        return self._again, (self.args, self.__dict__)

    @classmethod
    def _again(cls, args: tuple[object, ...], state: Mapping[str, object]) -> Self:
        made = cls.__new__(cls, *args)
        made.__dict__.update(state)
        return made


class UsageError(ArrieroError):
    """An argument has a value that makes no sense."""

    exit_code = 2


class ContextLengthError(UsageError):
    """Prompt plus requested completion exceed the model's window (all three in tokens)."""

    def __init__(self, prompt_tokens: int, max_new_tokens: int, window: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and up to {max_new_tokens} more were asked for, "
            f"but the model's window holds {window}",
            hint="shorten the conversation or ask for fewer tokens",
        )
        self.prompt_tokens = prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.window = window


class TooLongError(UsageError):
    """A text, the one of that 0-based number, exceeds an embedding model's window; both in tokens."""

    def __init__(self, number: int, tokens: int, window: int) -> None:
        super().__init__(
            f"text {number} has {tokens} tokens, but the embedding model's window holds {window}",
            hint="split it into shorter texts",
        )
        self.number = number


class UnsupportedError(UsageError):
    """The engine lacks a feature that a request asks for by name; `feature` is that name."""

    def __init__(self, feature: str, engine: str, *, hint: str = "") -> None:
        super().__init__(f"the {engine} engine does not do {feature}", hint=hint or "use --engine transformers")
        self.feature = feature
        self.engine = engine


class DataError(ArrieroError):
    """A data file cannot be used. `row` is the 0-based index of the record, None for the whole file."""

    def __init__(self, file: Path | str, reason: str, *, row: int | None = None, hint: str = "") -> None:
        where = f"{file}" if row is None else f"{file}, row {row}"
        super().__init__(f"{where}: {reason}", hint=hint)
        self.file = file
        self.row = row
        self.reason = reason


class ContractError(ArrieroError):
    """What the adapter was trained under differs from what is about to serve it."""


class CutOffError(ArrieroError):
    """An answer that is of no use unless it is complete reached its limit of tokens, or a stop string, before."""


class EngineError(ArrieroError):
    """An engine failed, or lacks a feature that was asked for."""


class BusyError(EngineError):
    """A server cannot answer now: full, over a limit, or failing. It may in `retry_after` seconds, where it says so."""

    def __init__(self, message: str, *, retry_after: float | None = None, hint: str = "try again later") -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


def retry_after(header: str | None) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3): it has a number, or a date; None where it has neither."""
    if header is None or re.fullmatch(r"\d+(\.\d+)?", header):
        return None if header is None else float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


class EngineLostError(EngineError):
    """What computed an answer is gone, the process or its machine: the same request may do well elsewhere."""


class ExportError(EngineError):
    """A model cannot be made into what the engine computes with; another engine may answer."""


class DownloadError(ArrieroError):
    """A download broke off or its bytes are not the expected ones."""


class DiskSpaceError(DownloadError):
    """The disk is full, or what is to be fetched would not fit on it."""


class PartlyDoneError(ArrieroError):
    """Some parts of the work failed; the others are done, and kept."""

    exit_code = 3


class NotFoundError(ArrieroError):
    """No model, file or directory of that name."""

    exit_code = 4


class AccessError(ArrieroError):
    """The hub wants a licence accepted or a token."""

    exit_code = 5


class MemoryLimitError(ArrieroError):
    """The machine's or the accelerator's memory is too small for the work."""

    exit_code = 6


class OfflineError(ArrieroError):
    """What was asked for is not on disk and the network cannot be reached."""

    exit_code = 7


class InterruptedRun(ArrieroError):
    """The user stopped the work; what was done is saved."""

    exit_code = 130
