"""How well a model predicts the answers of examples: teacher-forced, one forward pass, nothing sampled.

Every loss token (an answer's tokens and the stop token that ends it) is predicted from the true tokens before it.
This file knows neither files nor adapters: a model in memory and rendered examples come in, figures go out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from arriero import hub
from arriero.errors import ArrieroError, UsageError
from arriero.prompt import Rendered
from arriero.training.evaluation import evaluating

PADDED = 8192  # most tokens of a batch, padding included, unless it is a single example
CHUNK = 1 << 24  # elements of a float32 copy of logits: 64 MiB
OnDone = Callable[[int, int], None]  # rows done, rows in all


class Examples(Protocol):
    """Rendered examples by index, in memory or on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Rendered: ...


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures over all loss tokens of `rows` examples.

    `nll` is the mean negative log-likelihood in nats per loss token, `perplexity` its exponential. `stop_rate` is the
    share of answers that the model would have ended where they end: of all loss spans whose last token is a stop
    token, those where, given everything before it, the single most likely next token is a stop token (any of them,
    not only the one in the data). None where no span ends with a stop token.
    """

    rows: int
    loss_tokens: int
    nll: float
    perplexity: float
    stop_rate: float | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """A batch's logits, and where in them its n loss tokens are predicted.

    `logits` (rows, positions, vocabulary) are in the model's type; `row` and `position` (n,) point into them; `targets`
    (n,) are the loss tokens' ids and `ends` (n,) says which of them is the last of its answer. In order of rows.
    """

    logits: Tensor
    row: Tensor
    position: Tensor
    targets: Tensor
    ends: Tensor

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Logits (some of n, vocabulary) in float32, a bounded piece at a time: all at once would be many GB."""
        size = max(1, CHUNK // self.logits.shape[-1])
        for start in range(0, len(self.targets), size):
            chunk = slice(start, start + size)
            yield chunk, self.logits[self.row[chunk], self.position[chunk]].float()


def measure(
    model: torch.nn.Module,
    examples: Examples,
    stop_token_ids: Collection[int],
    *,
    batch_size: int = 8,
    on_done: OnDone | None = None,
) -> Measured:
    """Figures of a model on examples; the model's training flags are left as they were.

    Batches hold examples of similar length, the longest first: at most `batch_size`, and fewer where they are long.
    `on_done` is called after each. Raises UsageError where there is no loss token, ArrieroError where the loss is
    not a number that can be reported.
    """
    stops = torch.tensor(sorted(stop_token_ids))
    total, tokens, ends, stopped, done = 0.0, 0, 0, 0, 0
    lengths = [len(examples[index].ids) for index in range(len(examples))]
    original = hub.original_context(underlying(model).config.get_text_config().to_dict())
    with evaluating(model):
        for batch in _batches(lengths, batch_size, original):
            predicted = predict(model, [examples[index] for index in batch])
            stops = stops.to(predicted.logits.device)
            for chunk, logits in predicted.chunks():
                targets = predicted.targets[chunk]
                total += float(cross_entropy(logits, targets, reduction="none").double().sum())
                ending = predicted.ends[chunk] & torch.isin(targets, stops)
                ends += int(ending.sum())
                stopped += int(torch.isin(logits[ending].argmax(-1), stops).sum())
            tokens += len(predicted.targets)
            done += len(batch)
            if on_done is not None:
                on_done(done, len(lengths))
    nll = _mean(total, tokens)
    return Measured(len(lengths), tokens, nll, math.exp(nll), stopped / ends if ends else None)


def predict(model: torch.nn.Module, examples: Sequence[Rendered]) -> Predictions:
    """One forward pass over examples, padded on the right; logits only where a loss token is predicted.

    A batch's rows share the positions that logits are computed for, so those are the union over its rows; a model
    whose forward pass takes no `logits_to_keep` computes all. Call it inside `evaluating`.
    """
    loss = [
        (row, at - 1, example.ids[at], at == end - 1)  # the logits at a position predict the token after it
        for row, example in enumerate(examples)
        for start, end in example.loss_spans
        for at in range(max(start, 1), end)
    ]
    row, position, targets, ends = (torch.tensor(column) for column in zip(*loss, strict=True)) if loss else _nothing()
    ids = [torch.tensor(example.ids) for example in examples]
    inputs: dict[str, Any] = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(ids, batch_first=True),
        "attention_mask": torch.nn.utils.rnn.pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
    }
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    parameters = inspect.signature(underlying(model).forward).parameters
    if "use_cache" in parameters:
        inputs["use_cache"] = False
    if "logits_to_keep" in parameters and loss:
        kept = position.unique()  # ascending; left on the CPU, from where it indexes a tensor on any device
        inputs["logits_to_keep"] = kept
        position = torch.searchsorted(kept, position)
    logits = model(**inputs).logits
    return Predictions(logits, *(tensor.to(logits.device) for tensor in (row, position, targets, ends)))


def _nothing() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    none = torch.zeros(0, dtype=torch.long)
    return none, none, none, none.bool()


def _batches(lengths: Sequence[int], batch_size: int, original_context: int) -> Iterator[list[int]]:
    """Indices of examples, longest first, so that what does not fit into memory fails at once.

    No batch has examples on both sides of longrope's original context: all would be encoded as its longest one.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        full = len(batch) == batch_size or (batch and (len(batch) + 1) * lengths[batch[0]] > PADDED)
        if full or (batch and lengths[batch[0]] > original_context >= lengths[index]):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _mean(total: float, tokens: int) -> float:
    """Nats per loss token; refuses what has no exponential."""
    if not tokens:
        raise UsageError("there is no loss token to measure: no example has an answer")
    nll = total / tokens
    if not math.isfinite(nll) or nll > 700:
        raise ArrieroError(
            f"the loss is {nll} nats per token, so the model's weights are broken",
            hint="train again with a lower --learning-rate, or arriero models verify for the base model",
        )
    return nll


def underlying(model: torch.nn.Module) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
