"""Chat templates that set reasoning apart, in the manner of the models people use, for the tiny tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tests.conftest import TOOL_TEMPLATE, build_model, build_tokenizer

# Qwen 3: the model opens its reasoning, a variable closes it beforehand, the last turn's is shown again
QWEN3 = (
    "{{ '<s>' }}{% if messages[0].role == 'system' %}{{ '<sys>' + messages[0].content + '</s>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<user>' + m.content + '</s>' }}"
    "{% elif m.role == 'assistant' %}{{ '<bot>' }}{% if loop.last and m.reasoning_content %}"
    "{{ '<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' }}{% endif %}{{ m.content + '</s>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<bot>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# DeepSeek R1: the prompt opens it, always, and earlier answers are shown without
R1 = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<bot>' + m.content.split('</think>')[-1] + '</s>' }}"
    "{% else %}{{ {'system': '<sys>', 'user': '<user>'}[m.role] + m.content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bot><think>\n' }}{% endif %}"
)
# SmolLM 3: nothing in its history tells of reasoning, only the pair that its switch closes
SMOLLM3 = (
    "{{ '<s>' }}{% for m in messages %}{{ {'user': '<user>', 'assistant': '<bot>'}[m.role] + m.content + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<bot>' }}"
    "{% if not enable_thinking | default(true) %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
# Magistral's tags, and tools
BRACKETS = TOOL_TEMPLATE.replace(
    "{{ '<bot>' + m.content }}",
    "{{ '<bot>' }}{% if m.reasoning_content %}{{ '[THINK]' + m.reasoning_content + '[/THINK]' }}{% endif %}"
    "{{ m.content }}",
)
# Gemma 4: a channel with a name, closed beforehand unless a variable asks for it, and taken out of earlier answers
GEMMA4 = (
    "{{ '<s>' }}{% if enable_thinking is defined and enable_thinking %}{{ '<sys><|think|></s>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<bot>' }}"
    "{% for part in m.content.split('<channel|>') %}{{ part.split('<|channel>')[0] }}{% endfor %}{{ '</s>' }}"
    "{% else %}{{ '<user>' + m.content + '</s>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<bot>' }}"
    "{% if not enable_thinking | default(false) %}{{ '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"
)
OPENED, CLOSED = 262, 263


def reasoning_tokenizer(template: str = QWEN3) -> Any:
    """The tiny tokenizer, whose tags are tokens of their own: ids 262 and 263. Those of Gemma 4 are special ones."""
    tokenizer = build_tokenizer(template)
    special = template == GEMMA4
    tags = ("<|channel>", "<channel|>") if special else ("<think>", "</think>")
    tokenizer.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in tags], special_tokens=special)
    return tokenizer


def build_reasoning_model(directory: Path, template: str = QWEN3) -> Path:
    """The tiny random model with that tokenizer."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(build_model(directory))
    model.resize_token_embeddings(264, mean_resizing=False)
    model.save_pretrained(directory)
    reasoning_tokenizer(template).save_pretrained(directory)
    return directory
