"""Instruction data on disk: conversations read once from any number of files, memory-mapped and cached.

    files ──read, parse──> conversations.arrow, rows.json

The key of the cache is a hash of the files' content and of the options of reading. However large the files, memory
holds a batch. A row that cannot be used is dropped and listed with its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero import hub, settings
from arriero.data.formats import KNOWN, Shape, parse, renamed, shape_of, unused
from arriero.data.options import DataOptions, FormatName
from arriero.data.records import ENDINGS, files_of, read
from arriero.errors import DataError, UsageError
from arriero.messages import Conversation, Message, Tool, ToolCall

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
VERSION = 4  # of the cached files; raise it when what they hold changes
BATCH = 1000  # rows


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out, and why; `row` is its 0-based index in `file`."""

    row: int
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable rows of some files, memory-mapped.

    `table` has a row each: file (index into `files`), row, conversation (JSON), prompt_key and key (64-bit hashes of
    everything before the last answer, and of everything).
    """

    files: tuple[str, ...]
    format: FormatName
    table: Dataset
    dropped: tuple[Dropped, ...]
    key: str

    def conversation(self, index: int) -> Conversation:
        """The conversation of a row of `table`."""
        return as_conversation(self.table[index]["conversation"])


def load(source: str | Path, options: DataOptions | None = None) -> Loaded:
    """Read a file, a directory or a hub's data set; what was read before comes from the cache.

    Raises NotFoundError where there is nothing, DataError where a file cannot be read or has no usable row.
    """
    chosen = options or DataOptions()
    path = _path(source)
    files = files_of(path)
    names = tuple(str(file.relative_to(path)) if path.is_dir() else file.name for file in files)
    key = cache_key(
        VERSION, names, *map(hub.store.sha256, files), chosen.format, chosen.join_input, chosen.columns, chosen.encoding
    )
    folder = settings.cache_dir() / "data" / key
    if not (folder / "rows.json").is_file():
        _read_into(folder, files, names, chosen)
    from datasets import Dataset

    summary = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    dropped = tuple(Dropped(**drop) for drop in summary["dropped"])
    log.info("%s: %d rows in the %s format", path.name, summary["rows"] + len(dropped), summary["format"])
    if summary["shapes"].keys() - {summary["format"]}:
        log.info(
            "%s: rows by format: %s", path.name, "; ".join(f"{rows} {name}" for name, rows in summary["shapes"].items())
        )
    if summary["unused"]:
        log.warning("%s: fields that are not used: %s", path.name, ", ".join(summary["unused"]))
    table = Dataset.from_file(str(folder / "conversations.arrow"))
    return Loaded(names, summary["format"], table, dropped, key)


def check_source(source: str | Path) -> None:
    """Fetch a hub's data set; raises NotFoundError where `load` would find no file or directory."""
    path = _path(source)
    if not path.is_dir():  # which is listed once, by `load`
        files_of(path)


def _read_into(folder: Path, files: list[Path], names: tuple[str, ...], options: DataOptions) -> None:
    """Fill a cache folder, which appears whole or not at all."""
    import pyarrow as pa

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # by a killed process that had this number
    partial.mkdir(parents=True)
    reader = _Reader(files, names, options)
    fields = {"file": pa.int32(), "row": pa.int64(), "conversation": pa.large_string()}
    schema = pa.schema({**fields, "prompt_key": pa.int64(), "key": pa.int64()})
    try:
        with pa.ipc.new_stream(str(partial / "conversations.arrow"), schema) as writer:
            for columns in reader.batches():
                writer.write_batch(pa.record_batch(columns, schema))
        summary: dict[str, Any] = {"format": reader.format, "rows": reader.rows, "unused": sorted(reader.unused)}
        summary["shapes"] = dict(reader.shapes.most_common())
        summary["dropped"] = [asdict(drop) for drop in reader.dropped]
        (partial / "rows.json").write_text(json.dumps(summary), encoding="utf-8")
        if not _moved(partial, folder):
            shutil.rmtree(folder)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _moved(partial: Path, folder: Path) -> bool:
    """Move a filled folder to its place, unless another process was first, which works there by now.

    False where something is in the way.
    """
    try:
        partial.rename(folder)
    except OSError:
        return (folder / "rows.json").is_file()
    return True


class _Reader:
    """Parses records batch by batch; knows afterwards what it dropped."""

    def __init__(self, files: list[Path], names: tuple[str, ...], options: DataOptions) -> None:
        self._files = files
        self._names = names
        self._options = options
        self.format: FormatName = options.format
        self.rows = 0
        self.unused: set[str] = set()
        self.shapes: Counter[str] = Counter()
        self._fallback: FormatName = "alpaca"  # what a row without a format of its own is said to lack
        self._columns = options.renamed
        self.dropped: list[Dropped] = []

    def batches(self) -> Iterator[list[list[Any]]]:
        """Columns in the order of the schema. Raises DataError when no row can be used."""
        columns: list[list[Any]] = [[], [], [], [], []]
        size = 0
        for file, row, record in self._records():
            text = self._parsed(file, row, record)
            if text is None:
                continue
            for column, value in zip(columns, (file, row, *text), strict=True):
                column.append(value)
            size += len(text[0])
            self.rows += 1
            if len(columns[0]) == BATCH or size > 1 << 26:
                yield columns
                columns, size = [[], [], [], [], []], 0
        if columns[0]:
            yield columns
        self._refuse_unusable()
        if self.format == "auto":
            self.format = self._fallback

    def _refuse_unusable(self) -> None:
        """Raise DataError where no row, or fewer than half of them, can be used."""
        if len(self.dropped) <= self.rows and self.rows:
            return
        reasons = Counter(drop.reason for drop in self.dropped)
        count = len(self.dropped) + self.rows
        reason = f"{len(self.dropped)} of its {count} rows cannot be used" if self.rows else ""
        reason = reason or f"none of its {count} rows can be used"
        if self.dropped:
            reason += f"; the first: row {self.dropped[0].row}: {self.dropped[0].reason}"
        if len(reasons) > 1:
            reason += f"; most often: {reasons.most_common(1)[0][0]}"
        hint = 'expected rows like {"instruction": …, "input": "", "output": …}'
        raise DataError(self._names[0], reason, hint=f"{hint}, or --columns instruction=question,output=answer")

    def _records(self) -> Iterator[tuple[int, int, Any]]:
        options, columns = self._options, KNOWN.union(self._columns.values())
        every = (
            (index, row, record)
            for index, file in enumerate(self._files)
            for row, record in read(file, encoding=options.encoding, columns=columns)
        )
        head = [(file, row, self._ours(record)) for file, row, record in itertools.islice(every, 100)]
        formats = Counter(shape.format for _, _, record in head if (shape := shape_of(record)) is not None)
        if formats:
            self._fallback = formats.most_common(1)[0][0]
        return itertools.chain(head, ((file, row, self._ours(record)) for file, row, record in every))

    def _ours(self, record: Any) -> Any:
        """A record with the names that --columns gives its fields."""
        return renamed(record, self._columns) if self._columns and isinstance(record, dict) else record

    def _parsed(self, file: int, row: int, record: Any) -> tuple[str, int, int] | None:
        shape = shape_of(record, self._options.format)
        name = self._options.format if self._options.format != "auto" else shape.format if shape else self._fallback
        try:
            turns = as_turns(parse(record, name, self._options))
            text = json.dumps(turns, ensure_ascii=False)
            keys = _hash(json.dumps(_before_answer(turns), ensure_ascii=False)), _hash(text)
        except UsageError as error:
            self.dropped.append(Dropped(row, error.message, self._names[file]))
            return None
        except UnicodeEncodeError as error:
            reason = f"is not Unicode text: a lone surrogate {error.object[error.start]!r}"
            self.dropped.append(Dropped(row, reason, self._names[file]))
            return None
        self.shapes[_told(shape, name)] += 1
        self.unused |= unused(record, name)
        return text, *keys


def _told(shape: Shape | None, name: FormatName) -> str:
    return shape.told if shape is not None else name


def _before_answer(turns: Any) -> Any:
    """What the last answer answers, of a text all of it; see `as_turns`."""
    if isinstance(turns, dict) and "text" in turns:
        return turns
    return {**turns, "turns": turns["turns"][:-1]} if isinstance(turns, dict) else turns[:-1]


def as_turns(conversation: Conversation) -> Any:
    """A conversation as JSON: [role, content] for each turn; what else one has as a third item, tools around them."""
    if conversation.text is not None:
        return {"text": conversation.text}
    turns = []
    for message in conversation.messages:
        more: dict[str, Any] = {} if message.trained else {"trained": False}
        if message.reasoning_content is not None:
            more["reasoning"] = message.reasoning_content
        if message.tool_calls:
            more["calls"] = [call.definition for call in message.tool_calls]
        if message.tool_call_id is not None:
            more["result"] = message.tool_call_id
        turns.append((message.role, message.content, more) if more else (message.role, message.content))
    tools = [tool.definition for tool in conversation.tools]
    return {"tools": tools, "turns": turns} if tools else turns


def _as_message(role: Any, content: str, more: dict[str, Any]) -> Message:
    calls = tuple(map(ToolCall.of, more.get("calls", ())))
    return Message(role, content, calls, more.get("result"), more.get("trained", True), more.get("reasoning"))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def as_conversation(text: str) -> Conversation:
    """A row's JSON text as a conversation."""
    row = json.loads(text)
    if isinstance(row, dict) and "text" in row:
        return Conversation((), text=row["text"])
    turns, tools = (row["turns"], row["tools"]) if isinstance(row, dict) else (row, ())
    messages = (_as_message(role, content, *(more or ({},))) for role, content, *more in turns)
    return Conversation(tuple(messages), tuple(map(Tool.of, tools)))


def cache_key(*parts: object) -> str:
    """A short hash of what a cached file depends on."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _path(source: str | Path) -> Path:
    """A path as it is; any other name is a hub's data set, or a file's address."""
    if "://" in str(source):
        return hub.dataset(str(source))
    path = Path(source).expanduser()
    looks_like_a_file = path.suffix.lower() in (*ENDINGS, ".txt")
    if path.exists() or looks_like_a_file or path.is_absolute() or str(source).startswith("."):
        return path
    return hub.dataset(str(source))
