"""A conversation as Markdown for people and as a JSON object for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from arriero.history.saved import Node, SavedConversation, to_openai

HEADINGS = {"user": "## You", "assistant": "## {model}", "system": "## System", "tool": "## Tool"}


def as_markdown(saved: SavedConversation, path: Sequence[Node]) -> str:
    """What was said on the conversation's path, each turn under a heading, reasoning folded."""
    parts = [f"# {saved.title}"]
    if saved.system is not None:
        parts += [HEADINGS["system"], saved.system]
    for node in path:
        model = node.info.model if node.info is not None else saved.model
        parts.append(HEADINGS[node.message.role].format(model=model))
        if thought := node.message.reasoning_content:
            parts += ["<details><summary>Reasoning</summary>", thought, "</details>"]
        parts.append(node.message.content.strip())
    return "\n\n".join(parts) + "\n"


def document(saved: SavedConversation, path: Sequence[Node], nodes: Sequence[Node]) -> dict[str, Any]:
    """A conversation as a JSON object: `messages` is its path in OpenAI's form, `nodes` the whole tree.

    The terminal's /load reads it.
    """
    system = [{"role": "system", "content": saved.system}] if saved.system is not None else []
    return {
        "title": saved.title,
        "model": saved.model,
        "adapter": saved.adapter,
        "changed": saved.changed.isoformat(timespec="seconds"),
        "messages": [*system, *(to_openai(node.message) for node in path)],
        "nodes": [
            {
                "id": node.id,
                "parent": node.parent,
                **to_openai(node.message),
                "info": asdict(node.info) if node.info is not None else None,
            }
            for node in nodes
        ],
    }
