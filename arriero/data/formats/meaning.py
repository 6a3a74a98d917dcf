"""Fields that change what a row or a turn means: obeyed, or refused with what they mean; never ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arriero.errors import UsageError
from arriero.messages import Message, Tool

LOSS = ("weight", "train", "loss", "training")  # OpenAI's, Axolotl's, ms-swift's
VERDICTS = ("label", "kto_tag")
PAIRS = ("rejected", "rejected_response", "rejected_messages")
UNSEEN = ("images", "image", "videos", "video", "audios", "audio")
REASONING = ("reasoning_content", "reasoning", "thinking")  # DeepSeek's and vLLM's, OpenRouter's, Harmony's
UNHEARD = ("refusal", *UNSEEN)


def is_trained(fields: Mapping[str, Any], what: str) -> bool:
    """Whether `what` is to be learnt: what its fields weight, train and loss say, 1 and true or 0 and false."""
    flags = {name: fields[name] for name in LOSS if fields.get(name) is not None}
    for name, value in flags.items():
        if value not in (0, 1):
            raise UsageError(f"{what} has {name} {value!r}: a loss can only be taken (1, true) or not (0, false)")
    if len({bool(value) for value in flags.values()}) > 1:
        raise UsageError(f"{what} has fields that contradict each other: {flags}")
    return all(flags.values())


def refuse_other_tasks(record: Mapping[str, Any]) -> None:
    """Raise UsageError for a row that is for another kind of training, or that wants not to be learnt."""
    if (pair := next((name for name in PAIRS if record.get(name) is not None), None)) is not None:
        raise UsageError(
            f"holds an answer that is not wanted ({pair}): a preference pair, which takes DPO or the like; to learn "
            "the chosen answers only, leave that field out and name the other one with --columns output=chosen"
        )
    for name in VERDICTS:
        if record.get(name) is False:
            raise UsageError(f"has {name} false: an answer that is not wanted (KTO), which would be learnt as it is")
    if (unseen := next((name for name in UNSEEN if record.get(name)), None)) is not None:
        raise UsageError(f"holds {unseen}, and only text is trained")
    if not is_trained(record, "the row"):
        raise UsageError("is marked as not to be learnt (weight, train or loss)")


def refuse_uncalled(tools: Sequence[Tool], messages: Iterable[Message], choice: Any) -> None:
    """Raise UsageError for tools that no answer calls, unless the row's `tool_choice` leaves that to the model."""
    if tools and choice not in ("auto", "none") and not any(message.tool_calls for message in messages):
        raise UsageError(
            "has tools, and no answer calls one, which teaches the model not to call them: leave tools out or, if that "
            'is wanted, say so in the row with "tool_choice": "auto"'
        )


def reasoning_of(turn: Mapping[str, Any]) -> str | None:
    """The reasoning before a turn's answer, where it stands in a field of its own."""
    texts = [turn[name] for name in REASONING if turn.get(name)]
    if any(not isinstance(each, str) or each != texts[0] for each in texts):
        raise UsageError(f"the assistant's reasoning must be one text, got {texts!r:.80}")
    return texts[0] if texts else None


def refuse_other_parts(turn: Mapping[str, Any], role: str) -> None:
    """Raise UsageError for a turn with parts that would be lost."""
    unheard_of = UNHEARD if role == "assistant" else (*REASONING, *UNHEARD)
    if (unheard := next((name for name in unheard_of if turn.get(name)), None)) is not None:
        raise UsageError(f"the {role}'s turn holds {unheard}, which cannot be trained on")
    if role != "assistant" and any(turn.get(name) for name in LOSS):
        raise UsageError(f"asks for a loss on a turn of the {role}, and only answers are learnt")
