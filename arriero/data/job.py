"""Conversations -> their examples, a batch at a time: what is done in each process that renders."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from arriero.data.conversations import as_conversation
from arriero.errors import UsageError
from arriero.messages import Conversation
from arriero.prompt import Rendered, RenderedText, Renderer, tree_tokens

if TYPE_CHECKING:
    import pyarrow as pa

INHERITED: dict[int, Job] = {}  # jobs that processes forked from now on find in their memory


def _inherited(job: int) -> Job:
    return INHERITED[job]


@dataclass(frozen=True, slots=True)
class Job:
    """Renders a batch of rows; what `Dataset.map` calls in each process."""

    renderer: Renderer
    files: tuple[str, ...]
    limit: int
    cut: bool

    def __reduce__(self) -> Any:
        """Hand a forked process the object it has already: a large tokenizer takes 200 MB to unpickle in each."""
        import multiprocess

        if multiprocess.get_start_method() == "fork" and id(self) in INHERITED:
            return _inherited, (id(self),)
        return Job, (self.renderer, self.files, self.limit, self.cut)

    def described(self) -> str:
        """Everything that the result depends on besides rows, template and tokenizer."""
        r = self.renderer
        parts = [r.system, r.today, dict(r.variables), r.answers, r.stop_token_ids, r.fold_system, self.limit, self.cut]
        return json.dumps(parts, sort_keys=True)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table with the columns of `RenderedData`, reason and cut instead of conversation."""
        layouts: list[RenderedText] = []
        counts, outcomes = list[int](), list[_Outcome]()
        for text in batch.column("conversation").to_pylist():
            outcomes.append(_Outcome())
            made = self._layouts(as_conversation(text), outcomes[-1])
            layouts += made
            counts.append(len(made))
        examples = iter(self.renderer.tokenize(layouts))
        for count, outcome in zip(counts, outcomes, strict=True):
            self._fit(list(itertools.islice(examples, count)), outcome)
        return _with_results(batch, outcomes)

    def _layouts(self, conversation: Conversation, outcome: _Outcome) -> list[RenderedText]:
        outcome.document = conversation.text is not None
        try:
            layouts = self.renderer.rendered_texts(conversation.with_system(self.renderer.system))
        except UsageError as error:
            outcome.reason = error.message
            return []
        for layout in layouts:
            if not (self.cut or outcome.document) and self.renderer.surely_longer(layout.text, self.limit):
                outcome.reason = f"{len(layout.text)} characters, more than {self.limit} tokens, which is the limit"
                return []
        return layouts

    def _fit(self, examples: list[Rendered | UsageError], outcome: _Outcome) -> None:
        """Keep the examples of a row if all of them can be learnt within the limit; a document in pieces."""
        for example in examples:
            shorter = example.cut(self.limit) if self.cut and isinstance(example, Rendered) else None
            if isinstance(example, UsageError):
                outcome.refuse(example.message)
            elif outcome.document:
                outcome.examples += example.pieces(self.limit)
            elif len(example.ids) <= self.limit:
                outcome.examples.append(example)
            elif shorter is not None:
                outcome.examples.append(shorter)
                outcome.cut = True
            else:
                outcome.refuse(f"{len(example.ids)} tokens, the limit is {self.limit}")
        if outcome.reason is not None:
            outcome.examples, outcome.cut = [], False


@dataclass(slots=True)
class _Outcome:
    """What became of a row: its examples, or the reason why there are none."""

    examples: list[Rendered] = field(default_factory=list)
    reason: str | None = None
    cut: bool = False
    document: bool = False

    def refuse(self, reason: str) -> None:
        """For the first of the reasons."""
        self.reason = self.reason or reason


def _with_results(batch: pa.Table, outcomes: list[_Outcome]) -> pa.Table:
    import pyarrow as pa

    ends = [tuple(itertools.accumulate(len(example.ids) for example in row.examples)) for row in outcomes]
    spans = [
        tuple(
            start + position
            for start, example in zip((0, *own), row.examples, strict=False)
            for span in example.loss_spans
            for position in span
        )
        for own, row in zip(ends, outcomes, strict=True)
    ]
    return pa.table(
        {
            **{name: batch.column(name) for name in ("file", "row", "prompt_key", "key")},
            "ids": _lists([tuple(itertools.chain(*(example.ids for example in row.examples))) for row in outcomes]),
            "ends": _lists(ends),
            "spans": _lists(spans),
            "distinct": pa.array([tree_tokens(row.examples) for row in outcomes], pa.int64()),
            "reason": pa.array([row.reason for row in outcomes], pa.string()),
            "cut": pa.array([row.cut for row in outcomes], pa.bool_()),
        }
    )


def _lists(rows: list[tuple[int, ...]]) -> pa.Array:
    """Rows of numbers as an Arrow list array of 32-bit integers."""
    import pyarrow as pa

    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
