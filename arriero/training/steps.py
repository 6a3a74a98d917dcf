"""Loss and gradients of an optimizer step: the summed loss of its tokens, divided once, however it is split.

    examples ──pack──> rows ──model, attention, kernels──> hidden states at loss positions ──head──> loss ──> gradients

The sum over all rows is divided by the loss tokens of the whole step, so neither the number of rows nor that of
workers changes what is learned.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from arriero import hub
from arriero.cuda_graphs import to_device
from arriero.prompt import Rendered
from arriero.training import attention, compat, sharding
from arriero.training.examples import collate
from arriero.training.graphs import RowGraphs
from arriero.training.graphs.bucket import TOKENS, up
from arriero.training.inputs import RowInputs
from arriero.training.kernels import Kernels
from arriero.training.loss import HeadLoss, LogitsLoss
from arriero.training.pack import PackedRow, fill, loss_tokens, pack, split, tokens_of
from arriero.training.planning.plan import Plan
from arriero.training.targets import decoder_layers, language_part

log = logging.getLogger(__name__)
BUCKET = 64  # tokens
AttentionInterface.register(attention.NAME, attention.attention)


@dataclass(frozen=True, slots=True)
class Worker:
    """Which part of every step this process computes; `unsynchronised` holds back the exchange of gradients."""

    rank: int = 0
    count: int = 1
    unsynchronised: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True, slots=True)
class StepResult:
    """`loss` is a scalar on the device: nats per loss token of the step, scaled so that workers' mean is the loss.

    `logical` tokens are those of the examples, `computed` ones what the model computed for them, in all workers.
    """

    loss: Tensor
    logical: int
    computed: int


class Steps:
    """Computes steps of `model` (PEFT's) under `plan`; `wrapped` is the model that workers exchange gradients with.

    `layers` are the decoder's, `trained` the parameters that learn, by name; where it is `sharded`, each worker holds a
    part of the others. `graphs` compute rows where there are any; they are those of one plan.
    """

    graphs: RowGraphs | None

    def __init__(self, model: Any, plan: Plan, kernels: Kernels) -> None:
        self.model = model
        self.wrapped = model
        self.kernels = kernels
        self.base = model.get_base_model()
        self.layers = decoder_layers(language_part(self.base))
        self.trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.sharded = sharding.is_sharded(model)
        self._selects = "logits_to_keep" in inspect.signature(self.base.forward).parameters
        self._original_context = hub.original_context(self.base.config.get_text_config().to_dict())
        self.apply(plan)

    def apply(self, plan: Plan) -> None:
        """Compute under another plan from now on, without graphs."""
        self.plan, self.graphs = plan, None
        if not plan.fused:
            self.kernels = Kernels(None)
        if plan.recomputed:
            # the reentrant kind needs an input with a gradient, which a frozen embedding has not
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for index, layer in enumerate(self.layers):
            layer.gradient_checkpointing = index < plan.recomputed

    @property
    def fused(self) -> bool:
        """Whether anything is computed otherwise than by the model's own code."""
        return self.plan.fused and (self.kernels.replaces or self.plan.mode.name != "padded")

    def fall_back(self, error: Exception) -> None:
        """Compute plainly from now on, because the fast way raised `error`."""
        reason = f"the fast computation raised {type(error).__name__}: {error}"
        log.warning("%s; falling back to padded batches with the model's own code", reason)
        self.apply(self.plan.plainly(reason))

    def backward(self, examples: Sequence[Rendered], worker: Worker | None = None) -> StepResult:
        """Add the gradients of the step's mean loss to the parameters' `.grad`."""
        worker = worker or Worker()
        # DDP takes the mean over workers, and the sum is meant: hence times their number
        weight = worker.count / loss_tokens(examples)
        rows = self._split(examples, worker.count)
        mine = self.rows_of(worker, rows)
        loss = torch.zeros((), device=self.device)
        with self.active():
            for number, (row, counts) in enumerate(mine):
                last = number == len(mine) - 1
                # gradients of a step are exchanged once, with its last row
                with nullcontext() if last else worker.unsynchronised():
                    loss += self._row_backward(row, weight if counts else 0.0)
        logical = sum(len(example.ids) for example in examples)
        return StepResult(loss, logical, sum(self.computed(row) for row in rows))

    def _split(self, examples: Sequence[Rendered], at_least: int) -> list[list[Rendered]]:
        """The rows of a step. With longrope a row's longest example decides how the positions of all are encoded."""
        beyond = [example for example in examples if len(example.ids) > self._original_context]
        within = [example for example in examples if len(example.ids) <= self._original_context]
        share, row_tokens = self.plan.mode.share, self.plan.row_tokens
        groups = [group for group in (within, beyond) if group]
        return [row for group in groups for row in split(group, row_tokens, share=share, at_least=at_least)]

    def rows_of(self, worker: Worker, rows: Sequence[list[Rendered]]) -> list[tuple[list[Rendered], bool]]:
        """The rows that a worker computes, and whether each counts.

        Those that do not are there because workers wait for each other: in a step's exchange of gradients, and where
        weights are sharded in every row.
        """
        mine = [(row, True) for row in rows[worker.rank :: worker.count]]
        least = -(-len(rows) // worker.count) if self.sharded else 1
        # it costs the least, and its loss is multiplied by 0
        shortest = min(rows, key=self.computed)
        return mine + [(shortest, False)] * (least - len(mine))

    def loss(self, examples: Sequence[Rendered]) -> Tensor:
        """Summed loss of the examples of one row, in nats; call it within `active()`."""
        with self.autocast():
            if self.plan.mode.name == "padded":
                return self._padded(examples)
            return self._packed(RowInputs.of(self._row(examples), self.device))

    def weighted_backward(self, inputs: RowInputs, weight: Tensor | float) -> Tensor:
        """Add the gradients of a packed row's loss times `weight`; returns that product. Call it within `active()`."""
        with self.autocast():
            loss = self._packed(inputs)
        weighted = loss * weight
        weighted.backward()
        return weighted.detach()

    def release_graphs(self, reason: str) -> bool:
        """Have no graphs any more, for `reason`; whether that gave memory back."""
        return self.graphs is not None and self.graphs.release(reason)

    def computed(self, examples: Sequence[Rendered]) -> int:
        """Tokens that the model computes for the examples of one row."""
        if self.plan.mode.name == "padded":
            return len(examples) * max(len(example.ids) for example in examples)
        return up(tokens_of(examples, share=self.plan.mode.share), self.multiple)

    @property
    def multiple(self) -> int:
        """Rows are filled up to a multiple of this many tokens: for graphs, and on CUDA for kernels of few lengths."""
        if self.graphs is not None:
            return TOKENS
        return BUCKET if self.device.type == "cuda" else 1

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device(self.model.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the block the model has the plan's attention and the fused pieces; outside it is its plain self."""
        # evaluation, samples and saving see the model as transformers made it
        before = compat.attention_of(self.base)
        if self.plan.mode.own_attention:
            self.base.set_attn_implementation(attention.NAME)
        try:
            with self.kernels.installed(head=True, last_layer=self.plan.mode.name != "padded"):
                yield
        finally:
            self.base.set_attn_implementation(before)

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 for LoRA layers that would compute in float32, where there are such."""
        # PEFT casts the input up to LoRA's float32; the fused layers cast the matrices down instead
        needed = self.base.dtype == torch.bfloat16 and not self.kernels.covers_lora
        return torch.autocast(self.device.type, torch.bfloat16) if needed else nullcontext()

    def _row_backward(self, examples: Sequence[Rendered], weight: float) -> Tensor:
        if self.graphs is not None:
            return self.graphs.backward(self._row(examples), weight)
        loss = self.loss(examples) * weight
        loss.backward()
        return loss.detach()

    def _row(self, examples: Sequence[Rendered]) -> PackedRow:
        row = pack(examples, share=self.plan.mode.share)
        return fill(row, up(row.computed, self.multiple))

    def _packed(self, row: RowInputs) -> Tensor:
        last_layer = self.kernels.last_layer
        options: dict[str, Any] = {}
        if last_layer is not None:
            # (1, loss positions, vocabulary): logits, or where the head is whole hidden states, of the hidden size
            last_layer.positions = row.loss_positions
        elif self._selects:
            options["logits_to_keep"] = row.loss_positions
        if self.plan.mode.own_attention:
            options["row_layout"] = row.layout
        out = self.wrapped(input_ids=row.ids, position_ids=row.positions, use_cache=False, **options)
        selected = self._selects or last_layer is not None
        hidden = out.logits[0] if selected else out.logits[0].index_select(0, row.loss_positions)
        return self._head(hidden, row.targets, row.kept)

    def _padded(self, examples: Sequence[Rendered]) -> Tensor:
        batch = {name: to_device(tensor, self.device) for name, tensor in collate(examples).items()}
        # labels (batch, tokens), -100 where nothing is learnt; the logits before the last token predict them
        labels = batch.pop("labels")[:, 1:]
        learnt = labels >= 0
        hidden = self.wrapped(**batch, use_cache=False).logits[:, :-1][learnt]
        return self._head(hidden, labels[learnt])

    def _head(self, hidden: Tensor, targets: Tensor, kept: Tensor | None = None) -> Tensor:
        head = self.kernels.whole_head
        loss: Tensor = (
            LogitsLoss.apply(hidden, targets, kept)
            if head is None
            else HeadLoss.apply(hidden, head.weight, targets, kept)
        )
        return loss
