"""Which parts of a model a fused piece could stand in for, by class and attributes; probes decide whether it does."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from arriero.hub.four_bits import is_quantised
from arriero.training.kernels.functions import LoraLinears, RMSNorm, Rotary, SwiGLU

Forward = Callable[..., Any]
ROTARY = "apply_rotary_pos_emb"


@dataclass(frozen=True, slots=True)
class Piece:
    """A fused computation for `modules`, a forward for each. `variant` says what its probe depends on.

    Pieces of one kind and variant compute alike, so that one of them is probed for all: the classes, the shapes and
    types of their weights (bytes, where they are quantised), and the numbers that go into the computation.
    """

    kind: str
    modules: tuple[nn.Module, ...]
    forwards: tuple[Forward, ...]
    trained: tuple[Tensor, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def variant(self) -> tuple[Any, ...]:
        """What a probe of this piece holds for."""
        weights = [
            (type(module), *((tuple(weight.shape), weight.dtype) for weight in module.parameters()))
            for module in self.modules
        ]
        return self.kind, self.numbers, *weights


def norms(model: nn.Module, norm: Callable[..., Tensor] | None) -> Iterator[Piece]:
    """Root mean square norms with a frozen weight."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        eps: Any = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        named = type(module).__name__.endswith("RMSNorm") and eps is not None
        if named and isinstance(weight, Tensor) and not weight.requires_grad:
            forward = functools.partial(_norm, norm or RMSNorm.apply, module, eps)
            yield Piece("norm", (module,), (forward,), numbers=(eps,))


def _norm(norm: Callable[..., Tensor], module: Any, eps: float, x: Tensor) -> Tensor:
    return norm(x, module.weight, eps)


def gates(model: nn.Module, gated: Callable[..., Tensor] | None) -> Iterator[Piece]:
    """Feed-forward blocks of three linear layers, gated by SiLU. The layers compute themselves, quantised or not."""
    for module in model.modules():
        layers = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
        silu = "silu" in type(getattr(module, "act_fn", None)).__name__.lower()
        if silu and all(isinstance(layer, nn.Module) for layer in layers):
            yield Piece("gate", (module,), (functools.partial(_gate, gated or SwiGLU.apply, *layers),))


def _gate(gated: Callable[..., Tensor], gate: Any, up: Any, down: Any, x: Tensor) -> Tensor:
    out: Tensor = down(gated(gate(x), up(x)))
    return out


def rotaries(model: nn.Module) -> dict[str, tuple[Any, str]]:
    """The modules (of Python) that hold the rotary function of some part of `model`, as {name: (module, ROTARY)}."""
    holders = {}
    for name in sorted({type(module).__module__ for module in model.modules()}):
        own = getattr(sys.modules[name], ROTARY, None)
        if own is not None and list(inspect.signature(own).parameters)[:4] == ["q", "k", "cos", "sin"]:
            holders[name] = (sys.modules[name], ROTARY)
    return holders


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """In place of transformers' function of that signature; heads that are rotated as a whole only."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)


def fits_lora(layer: Any) -> bool:
    """A plain LoRA layer over a linear one, plain or in 4 bits: no DoRA, one adapter, on."""
    base = layer.get_base_layer()
    names = layer.active_adapters
    return (
        type(layer).__name__ in ("Linear", "Linear4bit")
        and (is_quantised(base) or (type(base) is nn.Linear and base.weight.is_floating_point()))
        and len(names) == 1
        and names[0] in layer.lora_A
        and not layer.lora_variant
        and not layer.lora_bias[names[0]]
        and not layer.merged
        and not layer.disable_adapters
    )


def loras(layers: Sequence[Any], order: Sequence[tuple[nn.Module, Any]]) -> Iterator[Piece]:
    """LoRA layers, those of one input together; `order` is that of their calls, with what each was given."""
    for group in of_one_input(layers, order):
        name = group[0].active_adapters[0]
        trained = [half[name].weight for layer in group for half in (layer.lora_A, layer.lora_B)]
        scales = tuple(layer.scaling[name] for layer in group)
        yield Piece("lora", tuple(group), tuple(_lora(group, scales)), tuple(trained), scales)


def of_one_input(layers: Sequence[Any], order: Sequence[tuple[nn.Module, Any]]) -> list[list[Any]]:
    """Layers that are given the same tensor one after the other, as q, k and v are, in the order they are called."""
    called = [(layer, x) for layer, x in order if layer in set(layers)]
    times = Counter(layer for layer, _ in called)
    # a layer that is called several times, or drops out, has no one input to share
    groups = [[layer] for layer in layers if times[layer] != 1 or _drops(layer)]
    last: Any = None
    for layer, x in called:
        alone = times[layer] != 1 or _drops(layer)
        # the same tensor object, not an equal one: only then is one product right
        if not alone and x is not None and x is last:
            groups[-1].append(layer)
        elif not alone:
            groups.append([layer])
        last = None if alone else x
    return groups


def _drops(layer: Any) -> bool:
    dropout = layer.lora_dropout[layer.active_adapters[0]]
    return isinstance(dropout, nn.Dropout) and dropout.p > 0


def _lora(group: list[Any], scales: tuple[float, ...]) -> list[Forward]:
    """A forward for each layer of a group: the first computes for all, the others hand out what it found.

    Weights are read when they are needed: with sharding a module's are other tensors then.
    """
    name = group[0].active_adapters[0]
    modules = [(layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]) for layer in group]
    waiting: dict[int, tuple[Tensor, bool, Tensor]] = {}

    def first(x: Tensor, *_: Any, **__: Any) -> Tensor:
        dropped = group[0].lora_dropout[name](x) if _drops(group[0]) else None
        parts = itertools.chain.from_iterable(map(_weights, modules))
        out, *others = LoraLinears.apply(x, dropped, scales, *parts)
        waiting.update({index: (x, torch.is_grad_enabled(), other) for index, other in enumerate(others, 1)})
        return out

    def other(index: int, x: Tensor, *_: Any, **__: Any) -> Tensor:
        # popped: an output is handed out once, or a second call would get the first one's graph
        given, with_gradients, out = waiting.pop(index, (None, False, None))
        # somebody calls the layer by itself, or computes only the first without gradients
        if out is None or given is not x or with_gradients != torch.is_grad_enabled():
            (out,) = LoraLinears.apply(x, None, scales[index : index + 1], *_weights(modules[index]))
        return out

    return [first, *(functools.partial(other, index) for index in range(1, len(group)))]


def _weights(modules: tuple[Any, Any, Any]) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Those of a linear layer and its two LoRA matrices, as LoraLinears takes them."""
    base, a, b = modules
    return base.weight, base.bias, a.weight, b.weight


def liger() -> dict[str, Callable[..., Any]]:
    """Liger's fused Triton kernels for the same pieces, empty where it is not installed."""
    try:
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction
        from liger_kernel.ops.rope import LigerRopeFunction
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction
    except ImportError:
        return {}

    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out: Tensor = LigerRMSNormFunction.apply(x, weight, eps, 0.0, "llama", False)
        return out

    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> Any:
        return LigerRopeFunction.apply(q, k, cos, sin, None, unsqueeze_dim)

    return {"norm": norm, "gate": LigerSiLUMulFunction.apply, "rotary": rotate}


def head_of(model: Any, logits: Tensor, given: Tensor, returned: Tensor) -> nn.Linear | None:
    """The output embedding, if the model's logits are its product with the hidden states and nothing more.

    `given` and `returned` are the head's recorded input and output. The weight may be tied to the input embedding's,
    as long as it is frozen.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    plain = head.weight.is_floating_point() and given.shape[-1] == head.in_features
    # bit for bit: logits that are scaled or capped after the head differ
    return head if plain and torch.equal(returned, logits) else None
