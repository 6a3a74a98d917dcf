"""Conversations -> rendered examples and padded batches, and a list of what had to be left out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from arriero import data
from arriero.data import Dropped, Loaded
from arriero.errors import DataError, UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Rendered, Renderer
from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
IGNORED = -100  # the label that torch's cross-entropy leaves out
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Examples:
    """The two parts of a data set: rows of a rendered table, which stay on disk; a row may have several examples.

    `held_out_row_ids` are the positions in `loaded.table` of the held-out examples' rows; `longest` is in tokens, of
    both parts.
    """

    train: Dataset
    held_out: list[Rendered]
    held_out_row_ids: list[int]
    dropped: tuple[Dropped, ...]
    sample: Conversation
    loaded: Loaded
    longest: int

    def step(self, size: int) -> list[Rendered]:
        """The examples of some `size` rows of the training part, spread over it, for trying things out."""
        count = len(self.train)
        indices = sorted({index * count // size for index in range(size)})
        return [example for at in indices for example in data.rendered(self.train[int(at)])]

    @property
    def held_out_rows(self) -> int:
        """Rows of the held-out part."""
        return len(set(self.held_out_row_ids))


def prepare(loaded: Loaded, renderer: Renderer, options: TrainOptions, window: int) -> Examples:
    """Render and split. Announces every dropped row; raises DataError when nothing is left to train on."""
    rows = data.render(loaded, renderer, options, window)
    rows.announce("report.json")
    train, held_out = data.split(rows.column("prompt_key"), options.eval_fraction, options.seed)
    if not len(train):
        raise DataError(loaded.files[0], f"all {len(held_out)} rows are held out", hint="lower --eval-fraction")
    if options.eval_fraction and not len(held_out):
        _none_held_out(len(rows), options)
    trained = rows.table.select(train)
    held = [(int(rows.row_ids[index]), example) for index in held_out for example in rows[int(index)]]
    return Examples(
        train=trained,
        held_out=[example for _, example in held],
        held_out_row_ids=[row_id for row_id, _ in held],
        dropped=rows.dropped,
        sample=_sample(loaded, rows.row_ids),
        loaded=loaded,
        longest=int(rows.lengths().max()),
    )


def _sample(loaded: Loaded, indices: Iterable[int]) -> Conversation:
    """The first conversation of words alone, which a contract can hold; a stand-in where the first ones have calls."""
    for row_id in itertools.islice(indices, 1000):
        conversation = loaded.conversation(int(row_id))
        if (
            conversation.messages
            and not conversation.tools
            and all(Message(turn.role, turn.content) == turn for turn in conversation.messages)
        ):
            return conversation
    return Conversation((Message("user", "hello"), Message("assistant", "hello")))


def _none_held_out(rows: int, options: TrainOptions) -> None:
    """Say that nothing is evaluated; raises UsageError where that was to decide something."""
    reason = f"nothing is held out for evaluation: {rows} rows are few for a part of {options.eval_fraction}"
    if options.early_stopping_patience or options.keep == "best":
        raise UsageError(
            f"{reason}, so there is no best adapter to keep or to stop at",
            hint="give more rows, a larger --eval-fraction or another --seed, or leave those options out",
        )
    log.warning("%s; a larger --eval-fraction holds some out", reason)


def collate(examples: Sequence[Rendered]) -> Batch:
    """Pad to the longest: input_ids, attention_mask and labels, each (examples, longest)."""
    longest = max(len(example.ids) for example in examples)
    batch = {
        "input_ids": torch.zeros(len(examples), longest, dtype=torch.long),
        "attention_mask": torch.zeros(len(examples), longest, dtype=torch.long),
        "labels": torch.full((len(examples), longest), IGNORED),
    }
    for row, example in enumerate(examples):
        length = len(example.ids)
        ids = torch.tensor(example.ids)
        batch["input_ids"][row, :length] = ids
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, :length] = torch.where(torch.tensor(example.mask), ids, IGNORED)
    return batch
