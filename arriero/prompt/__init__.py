"""Conversation -> token ids + loss mask, and the contract that keeps training and serving on the same ids.

    tokenizer.py         load a model's tokenizer; which token ids end a turn; whether the model has them all
    template.py          messages and tools -> text, by the model's own chat template
    tool_format.py       what an answer may be: calls of tools, JSON of a schema; as prompt and as constraint
    tool_parser/         the text of an answer -> text and calls of tools
    reasoning.py         the text of an answer -> what was thought before it, by the template's own tags
    options.py           what a prompt has besides: system prompt, variables, folding, a template for base models
    compat.py            private names of transformers that have no public one
    tracing.py           which characters of a prompt people wrote, and which the template
    prompt_renderer.py   turns to be answered -> text that ends where the answer goes on; no turn is lost
    example_renderer.py  conversation to learn from -> the texts of its examples, each answer behind its own prompt
    encoding.py          text -> ids, and where in them answers start
    rendered.py          Rendered: the ids of an example, and what of them is learnt
    renderer.py          Renderer: the only place where a conversation becomes ids
    sharing.py           what examples begin with in common, as a tree
    contract.py          Contract: what an adapter was trained under, written beside it and checked on load
    adopt.py             adopt(): an adapter that another program trained gets a contract
    resolved.py          resolve(): a base model and an adapter that belong together, and their renderer

Nothing else in Arriero turns text into ids.
"""

from arriero.prompt.contract import CONTRACT_FILE, Contract
from arriero.prompt.encoding import RenderedText
from arriero.prompt.example_renderer import Answers
from arriero.prompt.options import PromptSettings
from arriero.prompt.prompt_renderer import ChatTemplateOptions, Prompt
from arriero.prompt.reasoning import Reasoning, ReasoningReader
from arriero.prompt.rendered import Rendered
from arriero.prompt.renderer import Renderer
from arriero.prompt.resolved import ResolvedModel, resolve
from arriero.prompt.sharing import Shared, tree_tokens
from arriero.prompt.template import TemplateError
from arriero.prompt.tokenizer import load_tokenizer, read_tokenizer, stop_token_ids, token_count
from arriero.prompt.tool_format import OutputSpec
from arriero.prompt.tool_parser import CallReader, Part

__all__ = [
    "CONTRACT_FILE",
    "Answers",
    "CallReader",
    "ChatTemplateOptions",
    "Contract",
    "OutputSpec",
    "Part",
    "Prompt",
    "PromptSettings",
    "Reasoning",
    "ReasoningReader",
    "Rendered",
    "RenderedText",
    "Renderer",
    "ResolvedModel",
    "Shared",
    "TemplateError",
    "load_tokenizer",
    "read_tokenizer",
    "resolve",
    "stop_token_ids",
    "token_count",
    "tree_tokens",
]
