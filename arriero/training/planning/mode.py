"""Whether a model may share prefixes, be packed, or has to be padded, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import PretrainedConfig

from arriero.errors import UsageError
from arriero.training import compat

Name = Literal["shared", "packed", "padded"]
WINDOWED, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Mode:
    """How examples reach the model.

    shared: packed rows that compute a common prefix once. packed: rows without sharing. padded: batches.
    `own_attention` says that rows are attended to by arriero.training.attention; else the model masks them itself.
    """

    name: Name
    reason: str
    own_attention: bool = True

    @property
    def share(self) -> bool:
        """Whether a common prefix is computed once."""
        return self.name == "shared"


def choose(model: Any, sharing: Literal["auto", "on", "off"], longest: int) -> Mode:
    """The best mode for `model` (a transformers model), whose longest example has `longest` tokens.

    Raises UsageError where sharing is wanted ("on") and would be wrong.
    """
    obstacle = _obstacle(model, longest)
    if sharing == "on" and obstacle is not None:
        raise UsageError(f"--prefix-sharing on: {type(model).__name__} {obstacle.reason}", hint="--prefix-sharing auto")
    if obstacle is not None:
        return obstacle
    if sharing == "off":
        return Mode("packed", "sharing is switched off")
    return Mode("shared", "the model's attention can be exchanged")


def _obstacle(model: Any, longest: int) -> Mode | None:
    config: PretrainedConfig = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - {WINDOWED, FULL} or _is_recurrent(model):
        others = ", ".join(sorted(kinds - {WINDOWED, FULL})) or "a state that runs through the row"
        return Mode("padded", f"has layers that are not attention ({others})", own_attention=False)
    if not compat.takes_other_attention(model):
        return Mode("padded", "computes its attention itself", own_attention=False)
    window = getattr(config, "sliding_window", None)
    slides = WINDOWED in kinds or (not kinds and bool(window) and getattr(config, "use_sliding_window", True))
    if slides and (window is None or window < longest):
        reason = f"looks back {window} tokens only and the longest example has {longest}"
        return Mode("packed", reason, own_attention=False)
    return None


def _is_recurrent(model: Any) -> bool:
    """Whether a state is carried from token to token, as in Mamba or RWKV."""
    return compat.is_stateful(model)
