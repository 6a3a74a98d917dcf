"""Chat templates in the manner of the families people use, written for the tests, with a tokenizer that merges.

The tokenizer is a real byte-level BPE that has learnt merges across line breaks and blanks, so that an answer which
begins with a newline really does merge with the newline before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|head|>' + m['role'] + '<|/head|>\n\n' + m['content'] | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
INST = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + ns.system + m['content'] + ' [/INST]' }}{% set ns.system = '' %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n'"
    " + m['content'] | trim + '</turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)

# ChatML with tools as Hermes and Qwen 2.5 have them; not among FAMILIES, whose conversations have none
HERMES = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% endif %}{{ '# Tools\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% elif messages[0].role == 'system' %}"
    "{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant' }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    '{% for call in m.tool_calls %}{{ \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \''
    " + call.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# nothing between the texts, as some base models' templates have it
GLUED = "{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}"
# ChatML that looks into answers, as Qwen 3 and DeepSeek R1 do: reasoning is not shown again
THINKING = (
    "{% for m in messages %}{% set text = m.content %}{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# ChatML whose calls are XML, as Qwen3-Coder has it: arguments by name, so no template for arguments that are text
CODER = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}{% for tool in tools %}{{ '\n' + tool.function.name }}"
    "{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% endif %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for call in m.tool_calls %}"
    "{{ '\n<tool_call>\n<function=' + call.function.name + '>\n' }}"
    "{% for key, value in call.function.arguments | items %}"
    "{{ '<parameter=' + key + '>\n' + value | string + '\n</parameter>\n' }}{% endfor %}"
    "{{ '</function>\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Mistral's, which takes only ids of nine characters; `{calls}` is how a tokenizer's version writes them
MISTRAL = (
    "{{ bos_token }}{% if tools %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    "{{ '[TOOL_RESULTS]' + m.tool_call_id + m.content + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{% for call in m.tool_calls %}{% if call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}{% endfor %}CALLS"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% endif %}{% endfor %}"
)
MISTRAL_OLD = MISTRAL.replace(
    "CALLS",
    "{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id"
    " + '\"}' + ('' if loop.last else ', ') }}{% endfor %}{{ ']' + eos_token }}",
)
MISTRAL_NEW = MISTRAL.replace(
    "CALLS",
    "{% for call in m.tool_calls %}{{ '[TOOL_CALLS]' + call.function.name + '[CALL_ID]' + call.id + '[ARGS]'"
    " + call.function.arguments | tojson }}{% endfor %}{{ eos_token }}",
)

# Gemma 4's calls; its prompt for an answer is not how the answer's turn begins
GEMMA = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ '<|tool>declaration:' + tool.function.name + '{}<tool|>' }}"
    "{% endfor %}"
    "{% for m in messages %}{{ '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% for call in m.tool_calls %}{{ '<|tool_call>call:' + call.function.name + '{' }}"
    "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
    "{% for key, value in call.function.arguments | items %}{{ (',' if not loop.first else '') + key"
    " + ':<|\"|>' + value + '<|\"|>' }}{% endfor %}{% endif %}{{ '}<tool_call|>' }}{% endfor %}"
    "{{ m.content + '<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)

# Reasoning models. DeepSeek's R1: every prompt opens a think block, and no answer ever shows one again
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '<|User|>' + m.content }}{% else %}"
    "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# QwQ: the same in ChatML, with the line breaks after a block stripped
QWQ = THINKING.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
# Qwen 3: answers after the last question show their block, an empty one where there is none, and earlier ones don't;
# reasoning comes in a field of its own or in the text
_LAST = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% set thought = m.reasoning_content or '' %}{% set said = m.content %}"
    "{% if not thought and '</think>' in said %}"
    "{% set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}{% else %}{{ said }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}OPENING{% endif %}"
)
QWEN3 = _LAST.replace(
    "OPENING",
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)
QWEN3_THINKING = _LAST.replace("OPENING", "{{ '<think>\n' }}")


@dataclass(frozen=True)
class Family:
    """A template, its special tokens, the token that ends a turn, and whether content is stripped."""

    template: str
    specials: tuple[str, ...]
    end: str
    strips: bool = False
    has_system: bool = True
    before_answer: str = ""


FAMILIES = {
    "chatml": Family(CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "headers": Family(HEADERS, ("<|bos|>", "<|head|>", "<|/head|>", "<|eot|>"), "<|eot|>", strips=True),
    "inst": Family(INST, ("<s>", "</s>"), "</s>", before_answer=" "),
    "turns": Family(TURNS, ("<bos>", "<turn>", "</turn>"), "</turn>", strips=True, has_system=False),
}
# those whose history is not what was said
REASONING = {
    "thinking": Family(THINKING, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "r1": Family(R1, ("<|bos|>", "<|User|>", "<|Assistant|>", "<|eos|>"), "<|eos|>"),
    "qwq": Family(QWQ, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "qwen3": Family(QWEN3, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "qwen3-thinking": Family(QWEN3_THINKING, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
}
_MISTRAL_MARKS = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]")
# those with a place for tools
CALLING = {
    "hermes": Family(HERMES, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "coder": Family(CODER, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "mistral-old": Family(
        MISTRAL_OLD, ("<s>", "</s>", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", *_MISTRAL_MARKS), "</s>", has_system=False
    ),
    "mistral-new": Family(
        MISTRAL_NEW, ("<s>", "</s>", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", *_MISTRAL_MARKS), "</s>", has_system=False
    ),
    "gemma": Family(
        GEMMA, ("<bos>", "<|turn>", "<turn|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>"), "<turn|>"
    ),
}
CORPUS = [
    "a\n\nb",
    "\n\n\n a  b",
    "the cat  sat\n\n on",
    " the the",
    "你好，骆驼。\n你是谁？",
    "[INST] a [/INST] a b",
    "\r\n\t x",
] * 20


def tokenizer_for(family: Family) -> PreTrainedTokenizerFast:
    """A small BPE tokenizer, trained on the spot, with the family's special tokens and template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(family.specials), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.specials[0],
        eos_token=family.end,
        additional_special_tokens=list(family.specials),
        chat_template=family.template,
    )
