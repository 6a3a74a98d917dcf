"""Records -> conversations, each record by its own fields.

    alpaca              {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer], …]}
    messages            {"messages": [{"role", "content"}, …], "system"?}                        OpenAI's
    sharegpt            {"conversations": [{"from": "human" | "gpt" | "system", "value"}, …], "system"?}
    prompt-completion   {"prompt", "completion", "system"?}; both may be lists of messages       TRL's
    text                {"text"}: raw text, for continued pre-training

alpaca is Stanford's, with LLaMA-Factory's `system` and `history`. All may have `tools`.

    names.py      which format a record is in, under the names that people give its fields
    meaning.py    fields that change what a row means: obeyed or refused, never ignored
    turns.py      turns in OpenAI's, ShareGPT's and ms-swift's manner, calls of tools among them
    parsing.py    parse(): a record -> a conversation

A record that cannot be used raises UsageError with the reason.
"""

from arriero.data.formats.names import FIELDS, KNOWN, Shape, renamed, shape_of
from arriero.data.formats.parsing import parse, unused

__all__ = ["FIELDS", "KNOWN", "Shape", "parse", "renamed", "shape_of", "unused"]
