"""Where the fused pieces fit into a model, and a `with` block in which they are there.

A piece replaces a module's forward only if its class and attributes look right and a probe with random numbers gives
what the module itself gives. Everything else stays the model's own. Outside the block the model is as it was.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from arriero.training.kernels.functions import LoraLinears, RMSNorm, Rotary, SwiGLU
from arriero.training.kernels.last_layer import LastLayer
from arriero.training.kernels.probing import probing

Forward = Callable[..., Tensor]
ROTARY = "apply_rotary_pos_emb"


class Kernels:
    """The pieces that fit `model`, found once; none at all with `model` None. `counts` says how many of each kind.

    `whole_head` is the output embedding whose product may be computed by HeadLoss, None where the model does more
    with it (scales or caps the logits), or trains it. `covers_lora` is true if every LoRA layer computes in the
    type of its input, so that no autocast is needed. `last_layer` computes the end of the last layer at loss positions
    only, None where that layer is of another shape.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.forwards: list[tuple[nn.Module, Forward]] = []
        self.counts: Counter[str] = Counter()
        self._functions: list[tuple[Any, Any, Any]] = []
        self.whole_head: nn.Linear | None = None
        self.covers_lora = False
        self.last_layer: LastLayer | None = None
        if model is not None:
            self._find(model)

    def _find(self, model: nn.Module) -> None:
        liger = _liger() if next(model.parameters()).is_cuda else {}
        lora = [module for module in model.modules() if hasattr(module, "lora_A")]
        for group in of_one_input(model, [layer for layer in lora if _fits_lora(layer)]):
            for layer, forward in zip(group, _lora(group), strict=True):
                self._add("lora", layer, forward)
        self.covers_lora = self.counts["lora"] == len(lora)
        with torch.no_grad():
            for module in model.modules():
                self._add_norm(module, liger.get("norm") or RMSNorm.apply)
                self._add_gate(module, liger.get("gate") or SwiGLU.apply)
            self._add_rotary(model, liger.get("rotary"))
            self.whole_head = _whole_head(model)
        last_layer = LastLayer(model)
        if last_layer.layer is not None:
            self.last_layer = last_layer
            self.counts["last_layer"] = 1

    def _add(self, kind: str, module: nn.Module, forward: Forward) -> None:
        self.forwards.append((module, forward))
        self.counts[kind] += 1

    def _add_norm(self, module: nn.Module, norm: Callable[..., Tensor]) -> None:
        weight = getattr(module, "weight", None)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.requires_grad or eps is None:
            return

        def forward(x: Tensor) -> Tensor:
            return norm(x, weight, eps)

        if _same(module, forward, _random(1, 3, weight.numel()).to(weight)):
            self._add("norm", module, forward)

    def _add_gate(self, module: nn.Module, gated: Callable[..., Tensor]) -> None:
        gate, up, down = (getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down"))
        if (
            gate is None
            or up is None
            or down is None
            or "silu" not in type(getattr(module, "act_fn", 0)).__name__.lower()
        ):
            return

        def forward(x: Tensor) -> Tensor:
            out: Tensor = down(gated(gate(x), up(x)))
            return out

        weight = next(gate.parameters())
        if _same(module, forward, _random(1, 2, gate.in_features).to(weight)):
            self._add("gate", module, forward)

    def _add_rotary(self, model: nn.Module, liger: Callable[..., Any] | None) -> None:
        for place in {type(module).__module__ for module in model.modules()}:
            own = getattr(sys.modules[place], ROTARY, None)
            if own is not None and list(inspect.signature(own).parameters)[:4] == ["q", "k", "cos", "sin"]:
                q = _random(1, 2, 3, 8)
                cos, sin = _random(2, 1, 3, 4).repeat(1, 1, 1, 2).unbind()
                if torch.allclose(own(q, q, cos, sin)[1], _rotary(q, q, cos, sin)[1], atol=1e-5):
                    self._functions.append((sys.modules[place], own, liger or _rotary))
                    self.counts["rotary"] += 1

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
        for place, _, function in self._functions:
            setattr(place, ROTARY, function)
        try:
            yield
        finally:
            for module, _ in [*self.forwards, *whole]:
                del module.forward
            for place, own, _ in self._functions:
                setattr(place, ROTARY, own)


def _identity(x: Tensor) -> Tensor:
    return x


def _rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1, **_: Any) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return Rotary.apply(q, cos, sin), Rotary.apply(k, cos, sin)


def _random(*shape: int) -> Tensor:
    """Normal numbers that leave torch's generator alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _same(module: nn.Module, forward: Forward, x: Tensor) -> bool:
    tolerance = 3e-2 if x.dtype in (torch.bfloat16, torch.float16) else 1e-4
    ours, own = forward(x), module(x)
    close: bool = torch.allclose(ours, own, rtol=tolerance, atol=tolerance * float(own.abs().max()))
    return close


def _fits_lora(layer: Any) -> bool:
    """A plain LoRA layer over a plain linear one: no DoRA, no quantised weights, one adapter, on."""
    base = layer.get_base_layer()
    names = layer.active_adapters
    return (
        type(layer).__name__ == "Linear"
        and type(base) is nn.Linear
        and base.weight.is_floating_point()
        and len(names) == 1
        and names[0] in layer.lora_A
        and not layer.lora_variant
        and not layer.lora_bias[names[0]]
        and not layer.merged
        and not layer.disable_adapters
    )


def of_one_input(model: Any, layers: list[Any]) -> list[list[Any]]:
    """Layers that are given the same tensor one after the other, as q, k and v are, in the order they are called."""
    called: list[tuple[Any, Any]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: called.append((layer, args[0] if args else None)))
        for layer in layers
    ]
    try:
        with probing(model):
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(layer for layer, _ in called)
    groups = [[layer] for layer in layers if times[layer] != 1 or _drops(layer)]
    last: Any = None
    for layer, x in called:
        alone = times[layer] != 1 or _drops(layer)
        if not alone and x is not None and x is last:
            groups[-1].append(layer)
        elif not alone:
            groups.append([layer])
        last = None if alone else x
    return groups


def _drops(layer: Any) -> bool:
    dropout = layer.lora_dropout[layer.active_adapters[0]]
    return isinstance(dropout, nn.Dropout) and dropout.p > 0


def _lora(group: list[Any]) -> list[Forward]:
    """A forward for each layer of a group: the first computes for all, the others hand out what it found."""
    name = group[0].active_adapters[0]
    parts = [
        (base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight)
        for layer in group
        for base in [layer.get_base_layer()]
    ]
    scales = tuple(layer.scaling[name] for layer in group)
    waiting: dict[int, tuple[Tensor, Tensor]] = {}

    def first(x: Tensor, *_: Any, **__: Any) -> Tensor:
        dropped = group[0].lora_dropout[name](x) if _drops(group[0]) else None
        out, *others = LoraLinears.apply(x, dropped, scales, *itertools.chain(*parts))
        waiting.update({index: (x, other) for index, other in enumerate(others, 1)})
        return out

    def other(index: int, x: Tensor, *_: Any, **__: Any) -> Tensor:
        given, out = waiting.pop(index, (None, None))
        if out is None or given is not x:  # somebody calls the layer by itself
            (out,) = LoraLinears.apply(x, None, scales[index : index + 1], *parts[index])
        return out

    return [first, *(functools.partial(other, index) for index in range(1, len(group)))]


def _whole_head(model: Any) -> nn.Linear | None:
    """The output embedding, if the model's logits are its product with the hidden states and nothing more."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    ids = torch.arange(3, device=head.weight.device)[None]
    try:
        with probing(model):
            logits = model(input_ids=ids, use_cache=False).logits
            head.forward = _identity
            hidden = model(input_ids=ids, use_cache=False).logits
    finally:
        head.__dict__.pop("forward", None)
    same = hidden.shape[-1] == head.in_features and torch.equal(head(hidden), logits)
    return head if same else None


def _liger() -> dict[str, Callable[..., Any]]:
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

    def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1, **_: Any) -> Any:
        return LigerRopeFunction.apply(q, k, cos, sin, None, unsqueeze_dim)

    return {"norm": norm, "gate": LigerSiLUMulFunction.apply, "rotary": rotary}
