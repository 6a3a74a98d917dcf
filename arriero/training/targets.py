"""Which layers get LoRA matrices: by the model's own names, and of its language part only.

auto         the projections of attention and feed-forward blocks
all-linear   every linear layer but the head
names        those, wherever they are
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from arriero.errors import UsageError

AUTO, ALL_LINEAR = "auto", "all-linear"
ROUTERS = {"gate", "router", "shared_expert_gate"}  # few outputs that choose experts


@dataclass(frozen=True, slots=True)
class Targets:
    """What PEFT's LoraConfig is given: `names` of layers, and a pattern of the modules to leave alone, if any."""

    names: str | list[str]
    excluded: str | None

    @classmethod
    def of(cls, base: Any, names: Sequence[str]) -> Targets:
        """Those of `base`, a transformers model; raises UsageError for names that its language part has not."""
        language, head = language_part(base), base.get_output_embeddings()
        excluded = _elsewhere(base, language, head)
        if list(names) == [ALL_LINEAR]:
            return cls(ALL_LINEAR, excluded)
        if list(names) == [AUTO]:
            return cls(sorted(set(_projections(language))) or ALL_LINEAR, excluded)
        reachable = base if excluded is None else language
        missing = set(names) - {name.rpartition(".")[2] for name, _ in reachable.named_modules()}
        if missing:
            linear = {name.rpartition(".")[2] for name, module in language.named_modules() if _is_linear(module)}
            raise UsageError(
                f"{type(base).__name__} has no layers named {', '.join(sorted(missing))}",
                hint=f"--target-modules auto, all-linear, or names among {', '.join(sorted(linear))}",
            )
        return cls(list(names), excluded)


def language_part(base: Any) -> nn.Module:
    """The part of a transformers model that reads and writes text, without the head; of most, all there is."""
    part: nn.Module = base.get_decoder() if hasattr(base, "get_decoder") else base
    return part


def decoder_layers(language: nn.Module) -> list[Any]:
    """The decoder's layers, in order."""
    return [module for module in language.modules() if isinstance(module, GradientCheckpointingLayer)]


def _projections(language: nn.Module) -> Iterator[str]:
    """Last names of the linear layers in decoder layers, without routers and what works beside a convolution."""
    blocks = [(name, block) for layer in decoder_layers(language) for name, block in layer.named_children()]
    for name, block in blocks:
        if any(isinstance(module, nn.Conv1d) for module in block.modules()):  # a state-space block, for one
            continue
        for path, module in block.named_modules():
            last = (path or name).rpartition(".")[2]
            if _is_linear(module) and last not in ROUTERS:
                yield last


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D)


def _elsewhere(base: nn.Module, language: nn.Module, head: nn.Module) -> str | None:
    """A pattern of the modules beside the language part, such as what sees; None where there are none."""
    path = next((name for name, module in base.named_modules() if module is language), "")
    beside = set()
    for name, module in base.named_modules():
        if path and _is_linear(module) and module is not head and not name.startswith(f"{path}."):
            parts = name.split(".")
            roots = (".".join(parts[:end]) for end in range(1, len(parts) + 1))
            beside.add(next(root for root in roots if not f"{path}.".startswith(f"{root}.")))
    return rf"({'|'.join(map(re.escape, sorted(beside)))})(\..*)?" if beside else None
