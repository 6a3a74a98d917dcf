"""Where the fused pieces fit into a model, and a `with` block in which they are there.

A piece replaces a module's forward only if its class and attributes look right and a probe with random numbers gives
what the module itself gives. Everything else stays the model's own. Outside the block the model is as it was.
"""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from arriero.training.kernels.functions import LoraLinear, RMSNorm, Rotary, SwiGLU

Forward = Callable[..., Tensor]
ROTARY = "apply_rotary_pos_emb"


class Kernels:
    """The pieces that fit `model`, found once; none at all with `model` None. `counts` says how many of each kind.

    `whole_head` is the output embedding whose product may be computed by HeadLoss, None where the model does more
    with it (scales or caps the logits), or trains it. `covers_lora` is true if every LoRA layer computes in the
    type of its input, so that no autocast is needed.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self.forwards: list[tuple[nn.Module, Forward]] = []
        self.counts: Counter[str] = Counter()
        self._functions: list[tuple[Any, Any, Any]] = []
        self.whole_head: nn.Linear | None = None
        self.covers_lora = False
        if model is not None:
            self._find(model)

    def _find(self, model: nn.Module) -> None:
        liger = _liger() if next(model.parameters()).is_cuda else {}
        lora = [module for module in model.modules() if hasattr(module, "lora_A")]
        for layer in lora:
            if _fits_lora(layer):
                self._add("lora", layer, _lora(layer))
        self.covers_lora = self.counts["lora"] == len(lora)
        with torch.no_grad():
            for module in model.modules():
                self._add_norm(module, liger.get("norm") or RMSNorm.apply)
                self._add_gate(module, liger.get("gate") or SwiGLU.apply)
            self._add_rotary(model, liger.get("rotary"))
            self.whole_head = _whole_head(model)

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
    def installed(self, *, head: bool = False) -> Iterator[None]:
        """Within the block the model computes with the pieces; with `head`, its logits are the hidden states."""
        whole = [(self.whole_head, _identity)] if head and self.whole_head is not None else []
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


def _lora(layer: Any) -> Forward:
    name = layer.active_adapters[0]
    base, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    dropout, scale = layer.lora_dropout[name], layer.scaling[name]
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0

    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        dropped = dropout(x) if drops else None
        out: Tensor = LoraLinear.apply(x, dropped, base.weight, base.bias, a, b, scale)
        return out

    return forward


def _whole_head(model: Any) -> nn.Linear | None:
    """The output embedding, if the model's logits are its product with the hidden states and nothing more."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    ids = torch.arange(3, device=head.weight.device)[None]
    training = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        head.forward = _identity
        hidden = model(input_ids=ids, use_cache=False).logits
    finally:
        head.__dict__.pop("forward", None)
        model.train(training)
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
