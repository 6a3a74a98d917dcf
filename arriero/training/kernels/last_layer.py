"""The last decoder layer's feed-forward part, computed at the tokens with a loss only: nothing reads the others.

Below the last layer every token's state feeds the attention of later ones, and in it the attention needs the keys and
values of all. What follows that attention is computed token by token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arriero.training.kernels.probing import Call, apart, few_tokens

PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


class LastLayer:
    """The last decoder layer of `model`, if it has the usual parts; `layer` is None where it has not.

    While `forward` takes the place of the layer's own, the model's logits are those at `positions` only, a tensor of
    token indices within a row (one row at a time).
    """

    def __init__(self, model: nn.Module) -> None:
        self.positions = torch.zeros(0, dtype=torch.long)
        self.below = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        self.layer: Any = self.below.pop() if self.below else None
        if self.layer is not None and {name for name, _ in self.layer.named_children()} != set(PARTS):
            self.layer = None

    def forward(self, hidden: Tensor, *_: Any, **options: Any) -> Tensor:
        """Hidden states (1, tokens, size) before the layer -> (1, positions, size) behind it."""
        layer = self.layer
        attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **options)[0]
        # (1, tokens, size) -> (1, positions, size): from here on a token needs no other
        hidden = (hidden + attended).index_select(1, self.positions)
        out: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return out

    def difference(self, model: Any, call: Call, logits: Tensor) -> str | None:
        """Why this may not stand in for the layer, None if it may: the same logits from the layer's recorded call.

        The layers below hand on what they are given, so that only the end of the model is computed again.
        """
        # the first and the last, which a position that is off by one would miss
        self.positions = torch.tensor([0, logits.shape[1] - 1], device=logits.device)
        try:
            for layer in self.below:
                layer.forward = _as_it_is
            self.layer.forward = lambda *_, **__: self.forward(*call.args, **call.kwargs)
            some = few_tokens(model)
        except Exception as error:  # a piece that cannot be computed is left out, whatever the reason
            return f"raises {type(error).__name__}: {error}"
        finally:
            for layer in [*self.below, self.layer]:
                layer.__dict__.pop("forward", None)
        return apart(some, logits[:, self.positions], call.output.dtype)


def _as_it_is(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states
