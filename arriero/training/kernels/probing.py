"""What a model computes with a few tokens, recorded, and whether a fused piece computes the same from the same.

Probes are the model's own calls: whatever its head sizes, types and quantisation are, a piece meets them here first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from arriero.training.evaluation import evaluating

TOKENS = 4
TOLERANCE = 1e-4  # of the largest number, in float32
TOLERANCE_16_BIT = 3e-2


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments that a module or function was given, and what it returned."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any


@dataclass(slots=True)
class Record:
    """One forward pass: the `logits`, every call of the modules that were watched in order, and of functions by name.

    `order` holds the modules with their first argument.
    """

    calls: dict[nn.Module, Call] = field(default_factory=dict)
    order: list[tuple[nn.Module, Any]] = field(default_factory=list)
    functions: dict[str, list[Call]] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))


def record(model: Any, modules: Iterable[nn.Module], functions: Mapping[str, tuple[Any, str]]) -> Record:
    """Watch `modules`, and functions given as {name: (what holds it, its attribute)}, for a pass of TOKENS tokens."""
    seen = Record()

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        seen.calls.setdefault(module, Call(args, kwargs, output))
        seen.order.append((module, args[0] if args else None))

    # hooks see what a module is really given, whatever wraps it
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in modules]
    own = {name: getattr(*held) for name, held in functions.items()}
    try:
        for name, (holder, attribute) in functions.items():
            setattr(holder, attribute, _noting(own[name], seen.functions.setdefault(name, [])))
        seen.logits = few_tokens(model)
    finally:
        for hook in hooks:
            hook.remove()
        for name, (holder, attribute) in functions.items():
            setattr(holder, attribute, own[name])
    return seen


def _noting(function: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(Call(args, kwargs, function(*args, **kwargs)))
        return calls[-1].output

    return call


def few_tokens(model: Any) -> Tensor:
    """Logits (1, TOKENS, vocabulary) of some token ids."""
    with torch.no_grad():
        ids = torch.arange(1, 1 + TOKENS, device=model.device)[None]
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits


@contextmanager
def filled(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and LoRA matrices of ordinary size: fresh ones are zero and hide faults. Undone at the end."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    zero = [parameter for parameter in trained if not parameter.any()]
    before = [parameter.detach().clone() for parameter in zero]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter in zero:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        with evaluating(model, gradients=True):
            yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(zero, before, strict=True):
                parameter.copy_(value)


def difference(
    own: Callable[..., Any], fused: Callable[..., Any], call: Call, *, leading: int = 1, trained: Sequence[Tensor] = ()
) -> str | None:
    """Why `fused` may not stand in for `own` in a recorded call, None if outputs and gradients agree.

    Gradients are those of the `leading` arguments and of `trained`. Whatever `fused` raises is a reason, too.
    """
    try:
        ours, theirs = (_outputs_and_gradients(function, call, leading, trained) for function in (fused, own))
    except Exception as error:  # what cannot be compared is left out, whatever the reason
        return f"raises {type(error).__name__}: {error}"
    # outputs (each like the call's) and gradients in the same order
    reasons = (apart(mine, other, call.args[0].dtype) for mine, other in zip(ours, theirs, strict=True))
    return next((reason for reason in reasons if reason is not None), None)


def apart(ours: Tensor, own: Tensor, computed: torch.dtype) -> str | None:
    """How two tensors differ by more than rounding to the type that they are `computed` in, None if they do not."""
    if ours.shape != own.shape or ours.dtype != own.dtype:
        return f"gives {tuple(ours.shape)} {ours.dtype} in place of {tuple(own.shape)} {own.dtype}"
    largest = float(own.abs().max())
    distance = float((ours.float() - own.float()).abs().max())
    allowed = (TOLERANCE if computed in (torch.float32, torch.float64) else TOLERANCE_16_BIT) * largest
    return None if distance <= allowed else f"is {distance:.2g} off, of {largest:.2g}"


def _outputs_and_gradients(
    function: Callable[..., Any], call: Call, leading: int, trained: Sequence[Tensor]
) -> list[Tensor]:
    inputs = [argument.detach().clone().requires_grad_() for argument in call.args[:leading]]
    with torch.enable_grad():
        output = function(*inputs, *call.args[leading:], **call.kwargs)
        outputs = [output] if isinstance(output, Tensor) else list(output)
        generator = torch.Generator().manual_seed(1)
        # gradients of a fixed random direction, the same for both: a sum would hide faults that cancel out
        upstream = [torch.randn(out.shape, generator=generator).to(out) for out in outputs]
        gradients = torch.autograd.grad(outputs, [*inputs, *trained], upstream)
    return [*(out.detach() for out in outputs), *gradients]
