"""Conversations -> rendered examples and padded batches, and a list of what had to be left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from arriero.data import Dropped, Example, Loaded, split
from arriero.errors import DataError
from arriero.prompt import Rendered, Renderer
from arriero.training.options import TrainOptions

log = logging.getLogger(__name__)
IGNORED = -100  # the label that torch's cross-entropy leaves out
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Examples:
    """The two parts of a data set, rendered; `dropped` are rows that were unusable or did not fit."""

    train: list[Rendered]
    held_out: list[Rendered]
    dropped: list[Dropped]


def prepare(file: str, loaded: Loaded, renderer: Renderer, options: TrainOptions, window: int) -> Examples:
    """Split and render. Announces every dropped row; raises DataError when nothing is left to train on."""
    limit = min(options.max_length or window, window)
    dropped = list(loaded.dropped)
    parts = []
    for part in split(loaded.examples, options.eval_fraction, options.seed):
        parts.append(list(_rendered(part, renderer, limit, dropped)))
    for drop in dropped[:20]:
        log.warning("left out %s, row %d: %s", file, drop.row, drop.reason)
    if len(dropped) > 20:
        log.warning("left out %d more rows; report.json lists all", len(dropped) - 20)
    if not parts[0]:
        raise DataError(file, f"no row is left to train on ({len(dropped)} dropped, {len(parts[1])} held out)")
    return Examples(parts[0], parts[1], dropped)


def _rendered(examples: Sequence[Example], renderer: Renderer, limit: int, dropped: list[Dropped]) -> list[Rendered]:
    kept = []
    for example in examples:
        rendered = renderer.render(example.conversation)
        if len(rendered.ids) > limit:
            dropped.append(Dropped(example.row, f"{len(rendered.ids)} tokens, the limit is {limit}"))
        else:
            kept.append(rendered)
    return kept


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
