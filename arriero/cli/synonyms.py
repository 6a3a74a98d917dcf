"""What people type who come from other programs, and the verb that they mean."""

from __future__ import annotations

VERBS = {
    "pull": ["download"],
    "list": ["models"],
    "ls": ["models"],
    "ps": ["models"],
    "rm": ["models", "remove"],
    "remove": ["models", "remove"],
}


def meant(words: list[str]) -> list[str]:
    """A command line with the verb that is meant: `rm tiny` is `models remove tiny`, `run tiny hi` asks tiny."""
    match words:
        case ["run", *rest]:
            return _run(rest)
        case ["help", *verb]:
            return [*meant(verb), "--help"]
        case ["models", ("list" | "ls"), *rest]:
            return ["models", *rest]
        case ["models", "rm", *rest]:
            return ["models", "remove", *rest]
        case [verb, *rest] if verb in VERBS:
            return [*VERBS[verb], *rest]
    return words


def _run(words: list[str]) -> list[str]:
    """`run MODEL` is a conversation, `run MODEL QUESTION` one answer."""
    if not words or words[0].startswith("-"):
        return ["chat", *words]
    model, *others = words
    verb = "ask" if others and not others[0].startswith("-") else "chat"
    return [verb, *others, "--model", model]
