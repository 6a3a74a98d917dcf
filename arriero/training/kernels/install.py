"""The fused pieces that a model is computed with, and a `with` block in which they are there.

A piece replaces a module's forward only if its class and attributes look right and it gives, on the model's own calls
with a few tokens, the outputs and gradients that the module itself gives. Everything else stays the model's own, with
a word in the log. Outside the block the model is as it was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from arriero.training import sharding
from arriero.training.kernels import pieces
from arriero.training.kernels.last_layer import LastLayer
from arriero.training.kernels.pieces import Forward, Piece
from arriero.training.kernels.probing import Call, Record, difference, filled, record

log = logging.getLogger(__name__)


class Kernels:
    """The pieces that fit `model` (PEFT's), found once; none with `model` None. `counts` says how many of each kind.

    `whole_head` is the output embedding whose product may be computed by HeadLoss, None where the model does more
    with it (scales or caps the logits), or trains it. `covers_lora` is true if every LoRA layer computes in the
    type of its input, so that no autocast is needed. `last_layer` computes the end of the last layer at loss positions
    only, None where that layer is of another shape. `left_out` says why pieces that looked right are not used.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.forwards: list[tuple[nn.Module, Forward]] = []
        self.counts: Counter[str] = Counter()
        self.left_out: dict[str, str] = {}
        self.functions: list[tuple[Any, str, Any, Any]] = []  # what holds it, its name, the own one, ours
        self.whole_head: nn.Linear | None = None
        self.covers_lora = False
        self.last_layer: LastLayer | None = None
        if model is not None:
            with filled(model):
                self._find(model)

    def _find(self, model: Any) -> None:
        liger = pieces.liger() if next(model.parameters()).is_cuda else {}
        candidates = [*pieces.norms(model, liger.get("norm")), *pieces.gates(model, liger.get("gate"))]
        lora = [module for module in model.modules() if hasattr(module, "lora_A")]
        plain = [layer for layer in lora if pieces.fits_lora(layer)]
        last, rotaries = LastLayer(model), pieces.rotaries(model)
        head = model.get_output_embeddings()
        # one forward pass records them all; the probes then replay single calls
        watched = {*(module for piece in candidates for module in piece.modules), *plain, last.layer, head} - {None}
        try:
            seen = record(model, watched, rotaries)
        except Exception as error:  # a model that wants more than token ids is computed by its own code
            self._leave_out("all", f"probing raises {type(error).__name__}: {error}")
            return
        self._prove(model, [*candidates, *pieces.loras(plain, seen.order)], seen)
        # one layer that is left out computes in float32, so then autocast is needed for all
        self.covers_lora = self.counts["lora"] == len(lora)
        for name, (holder, attribute) in rotaries.items():
            self._prove_rotary(holder, attribute, seen.functions[name], liger.get("rotary") or pieces.rotary)
        if head in seen.calls:
            call = seen.calls[head]
            self.whole_head = pieces.head_of(model, seen.logits, call.args[0], call.output)
        if last.layer in seen.calls:
            reason = last.difference(model, seen.calls[last.layer], seen.logits)
            self.last_layer = last if self._proven("last_layer", reason) else None

    def _prove(self, model: nn.Module, candidates: list[Piece], seen: Record) -> None:
        """Probe the first piece of every variant, and take it for all of that variant or for none."""
        proven: dict[tuple[Any, ...], bool] = {}
        for piece in candidates:
            first, variant = piece.modules[0], piece.variant
            if variant not in proven and first in seen.calls:
                own, ours = _each(piece.modules), _each(piece.forwards)
                with sharding.gathered(model, piece.modules):
                    reason = difference(own, ours, seen.calls[first], trained=piece.trained)
                proven[variant] = reason is None
                if reason is not None:
                    self._leave_out(piece.kind, reason)
            if proven.get(variant, False):
                self.forwards += zip(piece.modules, piece.forwards, strict=True)
                self.counts[piece.kind] += len(piece.modules)

    def _prove_rotary(self, holder: Any, attribute: str, calls: list[Call], ours: Any) -> None:
        own = getattr(holder, attribute)
        by_shape = {tuple(tensor.shape for tensor in call.args if isinstance(tensor, Tensor)): call for call in calls}
        reasons = [difference(own, ours, call, leading=2) for call in by_shape.values()]
        if calls and self._proven("rotary", next((reason for reason in reasons if reason is not None), None)):
            self.functions.append((holder, attribute, own, ours))

    def _proven(self, kind: str, reason: str | None) -> bool:
        if reason is None:
            self.counts[kind] += 1
            return True
        self._leave_out(kind, reason)
        return False

    def _leave_out(self, kind: str, reason: str) -> None:
        if kind not in self.left_out:
            log.info("fused piece %s left out, the model's own code computes it: the piece %s", kind, reason)
        self.left_out.setdefault(kind, reason)

    @property
    def replaces(self) -> bool:
        """Whether there is any piece."""
        return bool(self.counts) or self.whole_head is not None

    @contextmanager
    def installed(self, *, head: bool = False, last_layer: bool = False) -> Iterator[None]:
        """Within the block the model computes with the pieces.

        With `head`, its logits are the hidden states; with `last_layer`, only those at the positions that it was given.
        """
        whole: list[tuple[Any, Any]] = []
        if head and self.whole_head is not None:
            whole.append((self.whole_head, _identity))
        if last_layer and self.last_layer is not None:
            whole.append((self.last_layer.layer, self.last_layer.forward))
        for module, forward in [*self.forwards, *whole]:
            module.forward = forward
        for holder, name, _, function in self.functions:
            setattr(holder, name, function)
        try:
            yield
        finally:
            for module, _ in [*self.forwards, *whole]:
                # an attribute of the instance hides the class's method; without it the model is its own again
                del module.forward
            for holder, name, own, _ in self.functions:
                setattr(holder, name, own)


def _identity(x: Tensor) -> Tensor:
    return x


def _each(functions: tuple[Any, ...]) -> Any:
    """All functions of the same arguments, as one."""
    return lambda *args, **kwargs: tuple(function(*args, **kwargs) for function in functions)
