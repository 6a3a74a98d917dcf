"""Length of packed rows and recomputation, chosen so that a step fits into memory.

What a token costs is measured, not guessed: the tensors that autograd keeps during one small forward pass, counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from arriero.training import sharding
from arriero.training.planning.mode import Mode

PREFERRED = {"cpu": 4096, "cuda": 8192}  # tokens of a row from which on longer ones are no faster
EFFICIENT = {"cpu": 768, "cuda": 2048}  # rows are shortened to this many tokens before layers are recomputed
MARGIN = 0.9  # share of the free memory that a plan may use
Recompute = Literal["auto", "off", "all"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How steps are computed: the mode, tokens of a row, and how many of the decoder's layers are recomputed.

    `estimated_bytes` is what a step needs besides the loaded model, `available_bytes` what was free. Without `fused` no
    piece of the model is replaced.
    """

    mode: Mode
    row_tokens: int
    layers: int
    recomputed: int = 0
    reason: str = ""
    estimated_bytes: int = 0
    available_bytes: int = 0
    fused: bool = True

    @classmethod
    def of(cls, document: dict[str, Any]) -> Plan:
        """A plan from its JSON."""
        return cls(**{**document, "mode": Mode(**document["mode"])})

    @property
    def checkpointing(self) -> Literal["off", "some", "all"]:
        """In words, how much is recomputed in the backward pass."""
        return "off" if not self.recomputed else "some" if self.recomputed < self.layers else "all"

    def plainly(self, reason: str) -> Plan:
        """The same with padded batches and the model's own code, for a model that the fast way is wrong for."""
        return replace(self, mode=Mode("padded", reason, own_attention=False), fused=False)

    def smaller(self, longest: int) -> Plan | None:
        """The next smaller plan after running out of memory, None if there is none."""
        if self.row_tokens > longest:
            return replace(self, row_tokens=max(longest, self.row_tokens // 2), reason="out of memory")
        if self.recomputed < self.layers:
            return replace(self, recomputed=self.layers, reason="out of memory")
        return None


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes that one more token of a row keeps until the backward pass, for all layers, and for a recomputed one.

    `fixed` is needed whatever the length: gradients, optimizer, a slice of logits, layers gathered from other workers.
    """

    per_token: int
    per_token_recomputed: int
    fixed: int
    layers: int

    @classmethod
    def of_model(cls, model: Any, per_token: int) -> Cost:
        """For `model`, whose layers keep `per_token` bytes, without recomputation."""
        config = model.config.get_text_config()
        width = torch.finfo(model.dtype).bits // 8
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logits = 256 * config.vocab_size * (2 * width + 8)
        fixed = trained * 16 + logits + sharding.gathered_bytes(model)
        return cls(max(1, per_token), config.hidden_size * width, fixed, config.num_hidden_layers)

    def of(self, tokens: int, recomputed: int) -> int:
        """Peak bytes of a row of `tokens` with `recomputed` layers recomputed: one of those is whole at a time."""
        layer = self.per_token // self.layers
        kept = (self.layers - recomputed) * layer + recomputed * self.per_token_recomputed
        return self.fixed + tokens * (kept + layer * (2 if recomputed else 1))


@contextmanager
def kept_bytes(model: Any) -> Iterator[dict[int, int]]:
    """Within the block, the memory that autograd keeps for the backward pass is noted: its address and bytes."""
    changing = sharding.is_sharded(model)
    weights = _addresses(model)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in kept and address not in (_addresses(model) if changing else weights):
            kept[address] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield kept


def _addresses(model: Any) -> set[int]:
    """Where the weights are that are whole now."""
    whole = (weight for weight in model.parameters() if not isinstance(weight, DTensor))
    return {weight.untyped_storage().data_ptr() for weight in whole}


@dataclass(frozen=True, slots=True)
class Need:
    """What a plan has to hold: the longest example and the largest step, both in tokens, and the user's wishes."""

    longest: int
    step_tokens: int
    row_tokens: int | None = None
    recompute: Recompute = "auto"


def make(mode: Mode, cost: Cost, need: Need, device: str, available: int) -> Plan:
    """The fastest plan that fits into `available` bytes; the smallest one, with a reason that says so, if none does."""
    budget = int(available * MARGIN)
    most = need.row_tokens or min(PREFERRED[device], need.step_tokens)
    lengths = [max(need.longest, most)]
    while need.row_tokens is None and lengths[-1] > max(need.longest, EFFICIENT[device]):
        lengths.append(max(need.longest, EFFICIENT[device], lengths[-1] * 3 // 4))
    layers = {"off": [0], "all": [cost.layers], "auto": range(cost.layers + 1)}[need.recompute]
    candidates = [(lengths[0], layers[0]), *((tokens, layers[0]) for tokens in lengths[1:])]
    candidates += [(lengths[-1], count) for count in layers[1:]]
    candidates.append((need.longest if need.row_tokens is None else lengths[0], layers[-1]))
    for tokens, recomputed in candidates:
        needed = cost.of(tokens, recomputed)
        plan = Plan(mode, tokens, cost.layers, recomputed, "", needed, available)
        if needed <= budget:
            return replace(plan, reason=_reason(plan, lengths[0], need))
    return replace(plan, reason="nothing smaller is possible; it may not fit")


def _reason(plan: Plan, wished: int, need: Need) -> str:
    if need.recompute == "all":
        return "recomputation was asked for"
    if plan.recomputed:
        return f"without recomputing {plan.recomputed} of {plan.layers} layers it would not fit"
    if plan.row_tokens < wished:
        return f"rows of {wished} tokens would not fit"
    return "fits without recomputation"
