"""The fields of OpenAI's API, and of servers that speak it, that are not used here: taken without effect, or refused.

OpenAI's are those of https://platform.openai.com/docs/api-reference, vLLM's those of its `protocol.py`, the others
llama.cpp's and SGLang's. A field that none of them has is taken as well. docs/serving.md lists all of them.
"""

from __future__ import annotations

from typing import Annotated, Any

from arriero.server.lenient import NO_EFFECT, OpenAIBody, Taken, Unless, Unsupported

Null = Annotated[Any, Unless(())]  # of these even an empty value asks for something


class UserField(OpenAIBody):
    """An opaque tag of who asks."""

    user: Annotated[str | None, NO_EFFECT] = None


class SamplingFields(UserField):
    """How to choose tokens, where to stop, and what to tell of it, in other ways than ours."""

    allowed_token_ids: Unsupported = None
    bad_words: Unsupported = None
    cache_salt: Unsupported = None
    dry_multiplier: Unsupported = None
    dynatemp_range: Unsupported = None
    ebnf: Unsupported = None
    grammar: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    guided_json: Null = None
    guided_regex: Unsupported = None
    guided_whitespace_pattern: Null = None
    ignore_eos: Unsupported = None
    include_stop_str_in_output: Unsupported = None
    json_schema: Null = None
    kv_transfer_params: Unsupported = None
    logits_processors: Unsupported = None
    min_tokens: Unsupported = None
    mirostat: Unsupported = None
    n_predict: Annotated[Any, Unless((-1,))] = None
    n_probs: Unsupported = None
    prompt_logprobs: Null = None
    regex: Unsupported = None
    repeat_penalty: Annotated[Any, Unless((1,))] = None
    repetition_detection: Unsupported = None
    return_token_ids: Unsupported = None
    return_tokens_as_token_ids: Unsupported = None
    skip_special_tokens: Annotated[Any, Unless((True,))] = None
    stop_regex: Unsupported = None
    stop_token_ids: Unsupported = None
    structured_outputs: Unsupported = None
    thinking_token_budget: Null = None
    top_a: Unsupported = None
    top_n_sigma: Annotated[Any, Unless((-1,))] = None
    truncate_prompt_tokens: Null = None
    typical_p: Annotated[Any, Unless((1,))] = None
    use_beam_search: Unsupported = None
    vllm_xargs: Unsupported = None
    xtc_probability: Unsupported = None


class PromptFields(OpenAIBody):
    """What would make another prompt of a conversation."""

    chat_template: Unsupported = None
    documents: Unsupported = None
    function_call: Annotated[Any, Unless(("none", "auto"))] = None
    functions: Unsupported = None


class ChatFields(SamplingFields):
    """Those of `POST /v1/chat/completions`."""

    metadata: Taken = None
    prediction: Taken = None
    prompt_cache_key: Taken = None
    prompt_cache_options: Taken = None
    prompt_cache_retention: Taken = None
    reasoning_effort: Taken = None
    safety_identifier: Taken = None
    service_tier: Taken = None
    store: Taken = None
    verbosity: Taken = None
    add_special_tokens: Unsupported = None
    audio: Null = None
    best_of: Annotated[Any, Unless((1,))] = None
    echo: Unsupported = None
    modalities: Annotated[Any, Unless((["text"], []))] = None
    moderation: Null = None
    web_search_options: Null = None


class CompletionFields(SamplingFields):
    """Those of `POST /v1/completions`."""

    add_special_tokens: Annotated[Any, Unless((True,))] = None
    response_format: Annotated[Any, Unless(({"type": "text"},))] = None
    suffix: Unsupported = None


class EmbeddingFields(UserField):
    """Those of `POST /v1/embeddings`."""

    add_special_tokens: Annotated[Any, Unless((True,))] = None
    embed_dtype: Annotated[Any, Unless(("float32",))] = None
    endianness: Annotated[Any, Unless(("native", "little"))] = None
    late_chunking: Unsupported = None
    messages: Unsupported = None
    normalize: Annotated[Any, Unless((True,))] = None
    truncate_prompt_tokens: Null = None


class MessageFields(OpenAIBody):
    """Those of a message: what an answer's holds besides its text may come back with it."""

    annotations: Taken = None
    name: Annotated[str | None, NO_EFFECT] = None
    audio: Null = None
    function_call: Null = None
