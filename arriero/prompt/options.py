"""What may be said of a prompt besides the model and the messages: the same words for training and for answering."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from arriero.errors import NotFoundError, UsageError
from arriero.messages import Message, with_system
from arriero.prompt.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class PromptSettings(TypedDict, total=False):
    """Each may be left out; an adapter's contract then says it, or else the chat template.

    `template` are variables of the chat template, such as `enable_thinking`, as a mapping or as texts NAME=VALUE.
    With `fold_system` the system prompt stands before the first question, for templates that refuse one.
    `chat_template` is one for a model that has none: chatml, llama3, a file, or the template itself.
    """

    system: str | None
    template: Mapping[str, Any] | Sequence[str]
    fold_system: bool
    chat_template: str | None


def taken(options: dict[str, Any]) -> PromptSettings:
    """Take what is said of the prompt out of keyword arguments; the others stay."""
    return cast(PromptSettings, {name: options.pop(name) for name in PromptSettings.__annotations__ if name in options})


def as_options(prompting: PromptSettings) -> dict[str, Any]:
    """What is said besides the system prompt, as a configuration file says it."""
    variables = variables_of(prompting.get("template", ()))
    options: dict[str, Any] = {"template": [f"{name}={json.dumps(value)}" for name, value in variables.items()]}
    options |= {name: prompting.get(name) for name in ("fold_system", "chat_template")}
    return {name: value for name, value in options.items() if value}


KNOWN = {
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
}
NEEDED = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}


def variables_of(given: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Variables of a template; a VALUE is JSON where it is that, such as true or 3, and else text."""
    if isinstance(given, Mapping):
        return dict(given)
    variables: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (equals and name.strip().isidentifier()):
            raise UsageError(
                f"a template's variable is given as NAME=VALUE, got {text!r}", hint="enable_thinking=false"
            )
        variables[name.strip()] = _value(value)
    return variables


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def agreeing(given: Mapping[str, Any], own: Mapping[str, Any], frozen: Set[str]) -> Mapping[str, Any]:
    """The variables that a request gives; UsageError where it changes one of the `frozen` ones of its `own`."""
    for name in sorted(frozen & given.keys()):
        if given[name] != own[name]:
            raise UsageError(
                f"the adapter was trained with the template's variable {name} as {own[name]!r}, got {given[name]!r}",
                hint=f"leave it out; whoever loads the adapter may change it: --template {name}=VALUE",
            )
    return given


def template_of(given: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """A chat template by its name here, from a file, or as it is.

    Raises UsageError where the vocabulary lacks its tokens, which the model could then not tell from text, and
    NotFoundError where there is no such file.
    """
    if "{{" in given or "{%" in given:
        return given
    if given not in KNOWN:
        file = Path(given).expanduser()
        if not file.is_file():
            raise NotFoundError(
                f"no chat template {given}", hint=f"{', '.join(KNOWN)}, or a file with a Jinja template"
            )
        return file.read_text(encoding="utf-8")
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    if missing := [token for token in NEEDED[given] if token not in added]:
        raise UsageError(
            f"the vocabulary has no special token {', '.join(missing)}, of which the chat template {given} is made",
            hint="give a file with a template of the tokens that it has: --chat-template FILE",
        )
    return KNOWN[given]


def ending_of(template: Template, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    """The id of the special token with which a template ends an answer, nothing where it ends it with none."""
    turns = [Message("user", "probe_question"), Message("assistant", "probe_answer")]
    special = template.tracer.specials.search(template.text(turns, answer_follows=False).rpartition("probe_answer")[2])
    return () if special is None else (int(tokenizer.convert_tokens_to_ids(special[0])),)


def folded(turns: Sequence[Message]) -> tuple[Message, ...]:
    """The turns with a system prompt at their beginning put before the first question."""
    if not turns or turns[0].role != "system":
        return tuple(turns)
    system, *others = turns
    if others and others[0].role == "user":
        return (Message("user", f"{system.content}\n\n{others[0].content}"), *others[1:])
    return (Message("user", system.content), *others)


def instructed(turns: Sequence[Message], instruction: str, *, takes_system: bool) -> tuple[Message, ...]:
    """With an instruction at the end of the system prompt or, where the template takes none, of the last question."""
    if takes_system:
        first, *others = with_system(turns, "")
        system = f"{first.content}\n\n{instruction}" if first.content else instruction
        return (Message("system", system), *others)
    last = max((index for index, message in enumerate(turns) if message.role == "user"), default=None)
    if last is None:
        return (Message("user", instruction), *turns)
    asked = replace(turns[last], content=f"{turns[last].content}\n\n{instruction}")
    return (*turns[:last], asked, *turns[last + 1 :])
