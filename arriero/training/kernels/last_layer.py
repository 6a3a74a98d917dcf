"""The last decoder layer's feed-forward part, computed at the tokens with a loss only: nothing reads the others.

Below the last layer every token's state feeds the attention of later ones, and in it the attention needs the keys and
values of all. What follows that attention is computed token by token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from arriero.training.kernels.probing import probing

PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


class LastLayer:
    """The last decoder layer of `model`, if it has the usual shape; `layer` is None where it has not.

    While `forward` takes the place of the layer's own, the model's logits are those at `positions` only, a tensor of
    token indices within a row (one row at a time).
    """

    def __init__(self, model: nn.Module) -> None:
        self.positions = torch.zeros(0, dtype=torch.long)
        self.layer: Any = None
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if layers and {name for name, _ in layers[-1].named_children()} == set(PARTS):
            self.layer = layers[-1]
            if not self._same(model):
                self.layer = None

    def forward(self, hidden: Tensor, *_: Any, **options: Any) -> Tensor:
        """Hidden states (1, tokens, size) before the layer -> (1, positions, size) behind it."""
        layer = self.layer
        attended = layer.self_attn(hidden_states=layer.input_layernorm(hidden), **options)[0]
        hidden = (hidden + attended).index_select(1, self.positions)
        out: Tensor = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return out

    def _same(self, model: Any) -> bool:
        """Whether a few tokens give the same logits this way."""
        ids = torch.arange(3, device=model.device)[None]
        self.positions = torch.tensor([0, 2], device=model.device)
        try:
            with probing(model):
                whole = model(input_ids=ids, use_cache=False).logits
                self.layer.forward = self.forward
                some = model(input_ids=ids, use_cache=False).logits
        except (TypeError, RuntimeError, ValueError):
            return False
        finally:
            self.layer.__dict__.pop("forward", None)
        tolerance = 1e-4 if whole.dtype == torch.float32 else 3e-2
        if some.shape[1] != 2:
            return False
        close: bool = torch.allclose(some, whole[:, [0, 2]], rtol=tolerance, atol=tolerance * float(whole.abs().max()))
        return close
