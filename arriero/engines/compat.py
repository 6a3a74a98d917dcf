"""Private names of other libraries where there is no public one.

    transformers 5.10 to 5.23    what a model's class says of its cache, the name of its attention
    openvino 2026.4              the transformation that GenAI applies before it answers, tracing of 16 bits
    Python 3.11 to 3.13          the parser of `re`; its sre_parse is deprecated

Each library is imported when a function first needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openvino
    import torch
    from transformers import PreTrainedModel


def takes_dynamic_cache(model: PreTrainedModel) -> bool:
    """Whether a model takes a DynamicCache. RecurrentGemma says so, but keeps one in its layers, for one request."""
    return bool(model._supports_default_dynamic_cache()) and not hasattr(model, "_setup_cache")


def is_stateful(model: PreTrainedModel) -> bool:
    """Whether a model carries a state from token to token, as Mamba or RWKV."""
    return bool(getattr(model, "_is_stateful", False))


def attention_of(model: PreTrainedModel) -> str | None:
    """The name of the attention that a model computes with."""
    name: str | None = getattr(model.config, "_attn_implementation", None)
    return name


def use_paged_attention(model: openvino.Model) -> None:
    """Give a stateful model the inputs of paged attention, and its KV cache as inputs, instead of state."""
    from openvino._offline_transformations import paged_attention_transformation

    paged_attention_transformation(model)


def make_16bit_traceable(model: torch.nn.Module) -> None:
    """Have OpenVINO trace a model in 16 bits without computing it; patches torch.bmm of the whole process."""
    from openvino.frontend.pytorch import patch_model

    patch_model.__make_16bit_traceable(model)


def restore_torch() -> None:
    """Undo what `make_16bit_traceable` has done to torch, if it has."""
    from openvino.frontend.pytorch import patch_model

    patch_model._unpatch_torch_functions()


def parse_regex(expression: str) -> Any:
    """The tree that `re` compiles: (opcode, argument) by (opcode, argument), with the flags in `state`."""
    from re import _parser  # type: ignore[attr-defined]

    return _parser.parse(expression)
