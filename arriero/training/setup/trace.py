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
from transformers.modeling_layers import GradientCheckpointingLayer

from arriero.prompt import Rendered
from arriero.training.pack import shared_prefix
from arriero.training.planning.plan import kept_bytes
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
        length = len(self.examples[self.target].ids)
        if steps.plan.mode.name == "padded":
            row, columns = self.target, torch.arange(length)
        else:
            prefix = shared_prefix(self.examples) if steps.plan.mode.share else 0
            start = prefix + sum(len(example.ids) - prefix for example in self.examples[: self.target])
            row, columns = 0, torch.cat((torch.arange(prefix), torch.arange(start, start + length - prefix)))
        return torch.full_like(columns, row, device=steps.device), columns.to(steps.device)


@dataclass(frozen=True, slots=True)
class Trace:
    """What was seen of the target. States and gradients are (tokens, size), for each layer; `parameters` by name.

    `leaked` is the largest gradient that reached another example's tokens from the target's outputs: 0, and exactly so,
    if the target does not depend on them. `kept` are bytes kept for the backward pass, of `tokens` in `layers` layers.
    """

    loss: float | None
    given: list[Tensor]
    returned: list[Tensor]
    gradients: list[Tensor]
    parameters: dict[str, Tensor]
    leaked: float
    kept: int
    tokens: int


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

    def gradients(self) -> tuple[list[Tensor], float]:
        """Those of the given states at the target's tokens, and the largest elsewhere."""
        found, leaked = [], 0.0
        for state in self.given:
            grad = torch.zeros_like(state) if state.grad is None else state.grad
            found.append(grad[self.at])
            grad[self.at] = 0
            leaked = max(leaked, float(grad.abs().max()))
        return found, leaked


def trace(steps: Steps, sample: Sample, states: Sequence[Tensor] | None = None, *, backward: bool = True) -> Trace:
    """Compute `sample` under `steps`, in evaluation mode; `states` are what the target's layers are given."""
    layers = _Layers(sample.tokens_of_target(steps), states, sample.depth)
    loss: Tensor | None = None
    with ExitStack() as stack:
        for module in steps.base.modules():
            if isinstance(module, GradientCheckpointingLayer):
                hook = module.register_forward_pre_hook(layers, with_kwargs=True)
                stack.callback(hook.remove)
        stack.enter_context(steps.active())
        kept = stack.enter_context(kept_bytes(steps.model))
        with suppress(_DeepEnough):
            loss = steps.loss(sample.examples)
        if backward:
            _send_back(layers.arrived, loss)
    gradients, leaked = layers.gradients()
    return Trace(
        loss=None if loss is None else float(loss.detach()),
        given=[state.detach()[layers.at] for state in layers.given],
        returned=[state.detach() for state in layers.arrived[1:]],
        gradients=gradients,
        parameters=_taken(steps.model),
        leaked=leaked,
        kept=sum(kept.values()),
        tokens=steps.computed(sample.examples),
    )


def direction(like: Tensor) -> Tensor:
    """What is sent back from every layer's output, (tokens, size); the same every time."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(2)).to(like)


def _send_back(arrived: list[Tensor], loss: Tensor | None) -> None:
    outputs = [state for state in arrived if state.requires_grad]
    directions: list[Tensor | None] = [direction(state) for state in outputs]
    if loss is not None:
        outputs, directions = [*outputs, loss], [*directions, None]
    torch.autograd.backward(outputs, directions)


def _taken(model: Any) -> dict[str, Tensor]:
    """The trained parameters' gradients, which are None afterwards."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
            parameter.grad = None
    return found
