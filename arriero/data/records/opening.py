"""A file, or what a gz or zip archive holds -> bytes -> text.

Text is UTF-8 unless it says otherwise: by a byte order mark, or by bytes that are none. For those charset-normalizer
tells the usual encodings of Chinese, Japanese and Korean apart. Encodings of single bytes are not guessed, since any
bytes are text in them.
"""

from __future__ import annotations

import codecs
import gzip
import io
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, cast

from arriero.data.records.listing import for_training, is_data, is_hidden
from arriero.errors import DataError

log = logging.getLogger(__name__)
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
WIDE = ["gb18030", "big5", "shift_jis", "euc_kr"]  # encodings that are recognised
SAMPLE = 1 << 18  # bytes from which an encoding is recognised
Errors = Literal["strict", "surrogateescape"]


@dataclass(frozen=True, slots=True)
class Part:
    """One file to read: `file` on disk, or a `name`d member of it when that is an archive."""

    file: Path
    name: str
    open: Callable[[], IO[bytes]]

    @property
    def ending(self) -> str:
        """Of its name, in small letters, without that of a compression."""
        return PurePosixPath(self.name.lower().removesuffix(".gz")).suffix

    def head(self, size: int) -> bytes:
        """The first bytes."""
        with failing(self.file), self.open() as stream:
            return stream.read(size)

    def text(self, encoding: str, *, newline: str | None = None, errors: Errors = "strict") -> io.TextIOWrapper:
        """The whole as text."""
        return io.TextIOWrapper(self.open(), encoding=encoding, errors=errors, newline=newline)


def parts_of(file: Path) -> Iterator[Part]:
    """A file as it is, unpacked, or the members of an archive. Raises DataError where an archive is broken."""
    part = Part(file, file.name, lambda: file.open("rb"))
    magic = part.head(4)
    if magic[:2] == b"\x1f\x8b":
        part = Part(file, file.name, lambda: cast(IO[bytes], gzip.open(file)))  # noqa: SIM115  the reader closes it
    elif magic == b"PK\x03\x04" and not _is_workbook(file):
        yield from _members(file)
        return
    yield part


def _is_workbook(file: Path) -> bool:
    with failing(file), zipfile.ZipFile(file) as archive:
        return any(name.startswith("xl/") for name in archive.namelist())


def _members(file: Path) -> Iterator[Part]:
    with failing(file), zipfile.ZipFile(file) as archive:
        names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
        members = {path: name for name in names if not is_hidden(path := Path(name))}
        data = [path for path in members if is_data(path)] or list(members)
        if others := members.keys() - data:
            log.info("%s: not read: %s", file.name, ", ".join(sorted(map(str, others))))
        for path in for_training(data):
            name = members[path]
            yield Part(file, name, lambda name=name: archive.open(name))  # type: ignore[misc]


@contextmanager
def failing(file: Path) -> Iterator[None]:
    """Turn what broken archives raise into a DataError."""
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(file, f"is a damaged archive: {error}", hint="was it cut off while copying?") from error
    except (RuntimeError, NotImplementedError) as error:  # a password, a compression that Python lacks
        if "zip" not in (error.__traceback__.tb_frame.f_code.co_filename if error.__traceback__ else ""):
            raise
        raise DataError(file, f"cannot be unpacked: {error}", hint="unpack it and give the directory") from error


def encoding_of(part: Part, chosen: str) -> str:
    """The encoding of a part's text, `chosen` unless that is auto; announced where it is not UTF-8."""
    if chosen != "auto":
        return chosen
    head = part.head(3)
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    encoding = marked or _told(part)
    if not encoding.startswith("utf-8"):
        log.info("%s: read as %s (--encoding decides otherwise)", part.name, encoding.upper())
    return encoding


def _told(part: Part) -> str:
    sample = _after_utf8(part)
    if sample is None:
        return "utf-8"
    text = sample.decode("utf-8", "replace")
    wide = sum(character > "\x7f" for character in text)
    if text.count("\ufffd") * 10 < wide:  # UTF-8 with a few damaged bytes
        return "utf-8"
    from charset_normalizer import from_bytes

    likely = sorted(from_bytes(sample, cp_isolation=WIDE), key=lambda match: (match.chaos, match.encoding != WIDE[0]))
    return likely[0].encoding if likely else "utf-8"


def _after_utf8(part: Part) -> bytes | None:
    """Whole lines around the first bytes that are not UTF-8, at most `SAMPLE` long; None where all are."""
    decoder, before = codecs.getincrementaldecoder("utf-8")(), b""
    with failing(part.file), part.open() as stream:
        while chunk := stream.read(1 << 20):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                text = before + chunk + stream.read(SAMPLE)
                bad = len(before) + max(0, error.start - 4)
                start = text.rfind(b"\n", 0, bad) + 1
                sample = text[start : start + SAMPLE]
                return sample.rpartition(b"\n")[0] or sample if len(sample) == SAMPLE else sample
            before = chunk[-SAMPLE:]
    return None
