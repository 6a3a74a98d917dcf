"""Conversation -> token ids + loss mask, and the contract that keeps training and serving on the same ids.

    tokenizer.py   load a model's tokenizer; which token ids end a turn
    renderer.py    Renderer: the only place where a conversation becomes ids
    contract.py    Contract: what an adapter was trained under, written beside it and checked on load
    binding.py     bind(): a base model and an adapter that belong together, and their renderer

Nothing else in Arriero turns text into ids.
"""

from arriero.prompt.binding import Bound, bind
from arriero.prompt.contract import CONTRACT_FILE, Contract
from arriero.prompt.renderer import Answers, Layout, Rendered, Renderer, TemplateError
from arriero.prompt.tokenizer import load_tokenizer, stop_token_ids

__all__ = [
    "CONTRACT_FILE",
    "Answers",
    "Bound",
    "Contract",
    "Layout",
    "Rendered",
    "Renderer",
    "TemplateError",
    "bind",
    "load_tokenizer",
    "stop_token_ids",
]
