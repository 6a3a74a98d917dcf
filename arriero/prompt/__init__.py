"""Conversation -> token ids + loss mask, and the contract that keeps training and serving on the same ids.

    tokenizer.py   load a model's tokenizer; which token ids end a turn
    template.py    messages and tools -> text, by the model's own chat template
    tools.py       what an answer may be: calls of tools, JSON of a schema; as prompt and as constraint
    calls/         the text of an answer -> text and calls of tools
    reasoning.py   the text of an answer -> what was thought before it, by the template's own tags
    options.py     what may be said of a prompt besides: system prompt, variables, folding, a template for base models
    tracing.py     which characters of a prompt people wrote, and which the template
    asking.py      turns to be answered -> text that ends where the answer goes on; no turn is lost
    encoding.py    text -> ids, with cuts where answers begin
    renderer.py    Renderer: the only place where a conversation becomes ids
    contract.py    Contract: what an adapter was trained under, written beside it and checked on load
    binding.py     bind(): a base model and an adapter that belong together, and their renderer

Nothing else in Arriero turns text into ids.
"""

from arriero.prompt.asking import Ends, Prompt
from arriero.prompt.binding import Bound, bind
from arriero.prompt.calls import CallReader, Part
from arriero.prompt.contract import CONTRACT_FILE, Contract
from arriero.prompt.encoding import Layout
from arriero.prompt.options import Prompting
from arriero.prompt.reasoning import Reasoning, ReasoningReader
from arriero.prompt.renderer import Answers, Rendered, Renderer
from arriero.prompt.template import TemplateError
from arriero.prompt.tokenizer import load_tokenizer, read_tokenizer, stop_token_ids
from arriero.prompt.tools import Wanted

__all__ = [
    "CONTRACT_FILE",
    "Answers",
    "Bound",
    "CallReader",
    "Contract",
    "Ends",
    "Layout",
    "Part",
    "Prompt",
    "Prompting",
    "Reasoning",
    "ReasoningReader",
    "Rendered",
    "Renderer",
    "TemplateError",
    "Wanted",
    "bind",
    "load_tokenizer",
    "read_tokenizer",
    "stop_token_ids",
]
