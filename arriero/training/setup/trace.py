"""One pass through the model in which every decoder layer starts from known states, so that each is seen by itself.

Two correct computations in bfloat16 drift apart from layer to layer, until a fault of a tenth cannot be told from
rounding. Here the states that come to a layer are noted and replaced (teacher forcing: by those of the other
computation), and a random direction is sent back from every layer's output: each layer is a short computation of its
own, forwards and backwards, which rounding changes by little.

    states 0 -> layer 0 -> noted | states 1 -> layer 1 -> noted | … -> states n -> layer n -> norm, head -> loss
                        <- direction                   <- direction                                     <- 1
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arriero.prompt import Rendered
from arriero.training.pack import pack
from arriero.training.steps import Steps


@dataclass(frozen=True, slots=True)
class Sample:
    """Examples that are computed together, of which one, the `target` (an index), is looked at.

    The others are there to be left alone: nothing of the target may depend on them. `depth` decoder layers are
    computed, all of them and the loss where it is None.
    """

    examples: tuple[Rendered, ...]
    target: int = 0
    depth: int | None = None

    @property
    def alone(self) -> Sample:
        """The target by itself."""
        return Sample((self.examples[self.target],), 0, self.depth)

    def tokens_of_target(self, steps: Steps) -> tuple[Tensor, Tensor]:
        """Rows and columns of the target's tokens in the model's input, each (tokens,)."""
        if steps.plan.mode.name == "padded":
            row, columns = self.target, torch.arange(len(self.examples[self.target].ids))
        else:
            row, columns = 0, pack(self.examples, share=steps.plan.mode.share).columns(self.target)
        return torch.full_like(columns, row, device=steps.device), columns.to(steps.device)


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of the target. `given` are the states that each layer was given, (tokens, size) like those below.

    `updates` are what each layer added to its states, `gradients` what it added to the direction sent back through it,
    both float32; the last layer's are of the loss. `parameters` are gradients by name. `leaked` is the largest gradient
    that reached another example's tokens from the target's outputs: 0, and exactly so, if the target does not depend
    on them. `tokens` were computed, in `dtype`.
    """

    loss: float | None
    given: list[Tensor]
    updates: list[Tensor]
    gradients: list[Tensor]
    parameters: dict[str, Tensor]
    leaked: float
    tokens: int
    dtype: torch.dtype


class _DeepEnough(Exception):
    """Ends a forward pass."""


class _Layers:
    """Notes what comes to each layer at the target's tokens, and gives it other states, where there are such."""

    def __init__(self, at: tuple[Tensor, Tensor], states: Sequence[Tensor] | None, depth: int | None) -> None:
        self.at, self.states, self.depth = at, states, depth
        self.arrived: list[Tensor] = []
        self.given: list[Tensor] = []

    def __call__(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.dim() != 3:  # some models carry several streams; their layers are not taken apart
            return None
        self.arrived.append(hidden[self.at])
        if self.depth is not None and len(self.given) == self.depth:
            raise _DeepEnough
        self.given.append(self._given(hidden.detach()).requires_grad_())
        return ((self.given[-1], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self.given[-1]})

    def _given(self, hidden: Tensor) -> Tensor:
        """States for every token: the target's own, and for others some of the same kind."""
        if self.states is None:
            return hidden.clone()
        state = self.states[len(self.given)]
        some = torch.arange(hidden.shape[0] * hidden.shape[1], device=hidden.device) % len(state)
        given = state[some].view(hidden.shape)
        given[self.at] = state
        return given

    def updates(self) -> list[Tensor]:
        """Of every layer whose outputs came to another one, or to the end."""
        pairs = zip(self.given, self.arrived[1:], strict=False)
        return [after.detach().float() - before.detach()[self.at].float() for before, after in pairs]

    def gradients(self, sent: Tensor) -> tuple[list[Tensor], float]:
        """Those of the given states at the target's tokens, less what was `sent` back, and the largest elsewhere."""
        gradients, leaked = [], 0.0
        for number, state in enumerate(self.given):
            grad = torch.zeros_like(state) if state.grad is None else state.grad
            own = grad[self.at].float()
            gradients.append(own - sent if number + 1 < len(self.arrived) else own)
            grad[self.at] = 0
            leaked = max(leaked, float(grad.abs().max()))
        return gradients, leaked


def trace(steps: Steps, sample: Sample, states: Sequence[Tensor] | None = None, *, backward: bool = True) -> Trace:
    """Compute `sample` under `steps`, in evaluation mode; `states` are what the target's layers are given."""
    layers = _Layers(sample.tokens_of_target(steps), states, sample.depth)
    loss: Tensor | None = None
    with ExitStack() as stack:
        for layer in steps.layers:
            # before a sharded layer's own hook, which is to see what the layer is given
            stack.callback(layer.register_forward_pre_hook(layers, prepend=True, with_kwargs=True).remove)
        stack.enter_context(steps.active())
        with suppress(_DeepEnough):
            loss = steps.loss(sample.examples)
        sent = _send_back(layers.arrived, loss) if backward else torch.zeros(())
    gradients, leaked = layers.gradients(sent.float()) if backward else ([], 0.0)
    return Trace(
        loss=None if loss is None else float(loss.detach()),
        given=[state.detach()[layers.at] for state in layers.given],
        updates=layers.updates(),
        gradients=gradients,
        parameters=_taken(steps),
        leaked=leaked,
        tokens=steps.computed(sample.examples),
        dtype=steps.base.dtype,
    )


def _send_back(arrived: list[Tensor], loss: Tensor | None) -> Tensor:
    """The backward pass from every layer's output, all along one direction, which is returned, and from the loss."""
    generator = torch.Generator().manual_seed(2)
    sent = torch.randn(arrived[0].shape, generator=generator).to(arrived[0]) if arrived else torch.zeros(())
    outputs = [state for state in arrived if state.requires_grad]
    directions: list[Tensor | None] = [sent] * len(outputs)
    if loss is not None:
        outputs, directions = [*outputs, loss], [*directions, None]
    torch.autograd.backward(outputs, directions)
    return sent


def _taken(steps: Steps) -> dict[str, Tensor]:
    """The trained parameters' gradients, which are None afterwards."""
    gradients = {}
    for name, parameter in steps.trained.items():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
            parameter.grad = None
    return gradients
