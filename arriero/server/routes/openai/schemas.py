"""What the bodies of several of OpenAI's endpoints have in common: sampling, streaming, token counts.

A field that one endpoint alone has is declared in that endpoint's file. Fields of OpenAI's API
(https://platform.openai.com/docs/api-reference), of vLLM's `protocol.py`, llama.cpp and SGLang that are not used here
are declared as well, as taken without effect or as refused; docs/serving.md lists all of them, and a test holds it to
these classes. A field that none of them has is taken and named in the response's header.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field

from arriero.messages import Sampling, Usage
from arriero.server.lenient import NO_EFFECT, NullOnly, OpenAIBody, RefusedUnless, Unsupported
from arriero.server.schemas import Bias, Penalty, Stop, Temperature, TokenId, TopP, Whole

DONE = b"data: [DONE]\n\n"


class CompletionDetails(BaseModel):
    """Of the tokens of answers."""

    reasoning_tokens: int


class TokenCounts(BaseModel):
    """Counts in tokens; the details are there where there was reasoning."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionDetails | None = None


def counts(usages: Sequence[Usage], answers_per_prompt: int | None = None) -> dict[str, Any]:
    """Tokens of all answers and of the prompts, each of which counts once for its answers; by default there is one."""
    prompt = sum(usage.prompt_tokens for usage in usages[:: answers_per_prompt or len(usages)])
    completion = sum(usage.completion_tokens for usage in usages)
    usage_counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    reasoning = sum(usage.reasoning_tokens for usage in usages)
    return usage_counts | ({"completion_tokens_details": {"reasoning_tokens": reasoning}} if reasoning else {})


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


class UserField(OpenAIBody):
    """An opaque tag of who asks."""

    user: Annotated[str | None, NO_EFFECT] = None


class SamplingBody(UserField):
    """How to choose tokens, as OpenAI's clients say it; the last three are not OpenAI's but widely understood.

    null counts as absent, and what is absent is the model's own. Seeds count modulo 2**63.
    """

    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: Whole | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    top_k: Annotated[Whole, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    # Other servers', refused unless they ask for nothing.
    allowed_token_ids: Unsupported = None
    bad_words: Unsupported = None
    cache_salt: Unsupported = None
    dry_multiplier: Unsupported = None
    dynatemp_range: Unsupported = None
    ebnf: Unsupported = None
    grammar: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    guided_json: NullOnly = None
    guided_regex: Unsupported = None
    guided_whitespace_pattern: NullOnly = None
    ignore_eos: Unsupported = None
    include_stop_str_in_output: Unsupported = None
    json_schema: NullOnly = None
    kv_transfer_params: Unsupported = None
    logits_processors: Unsupported = None
    min_tokens: Unsupported = None
    mirostat: Unsupported = None
    n_predict: Annotated[Any, RefusedUnless((-1,))] = None
    n_probs: Unsupported = None
    prompt_logprobs: NullOnly = None
    regex: Unsupported = None
    repeat_penalty: Annotated[Any, RefusedUnless((1,))] = None
    repetition_detection: Unsupported = None
    return_token_ids: Unsupported = None
    return_tokens_as_token_ids: Unsupported = None
    skip_special_tokens: Annotated[Any, RefusedUnless((True,))] = None
    stop_regex: Unsupported = None
    stop_token_ids: Unsupported = None
    structured_outputs: Unsupported = None
    thinking_token_budget: NullOnly = None
    top_a: Unsupported = None
    top_n_sigma: Annotated[Any, RefusedUnless((-1,))] = None
    truncate_prompt_tokens: NullOnly = None
    typical_p: Annotated[Any, RefusedUnless((1,))] = None
    use_beam_search: Unsupported = None
    vllm_xargs: Unsupported = None
    xtc_probability: Unsupported = None

    def sampling_for(self, max_new_tokens: int | None, number: int = 0) -> Sampling:
        """The parameters for the answer of that number; with a seed each answer has its own."""
        return Sampling(
            max_new_tokens=max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None else (self.seed + number) % 2**63,
            stop=tuple(self.stop or ()),
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
        )


class StreamOptions(OpenAIBody):
    """What a stream carries besides text. Nothing is padded here, whatever `include_obfuscation` says."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[bool | None, NO_EFFECT] = None


class Streamed(OpenAIBody):
    """What is answered whole or as a stream."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def overridden(self) -> Iterable[str]:
        """The options, where there is no stream."""
        return ("stream_options",) if self.stream_options is not None and not self.stream else ()

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)
