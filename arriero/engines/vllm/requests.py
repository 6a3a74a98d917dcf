"""One request in vLLM's words, and its answer's log-probabilities in ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm import SamplingParams
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from arriero.constraint import Constraint
from arriero.engines import llguidance
from arriero.errors import UsageError
from arriero.messages import Sampling, TokenLogprob

BIASES = 1024  # of one request; with CUDA vLLM has room for so many, and its process dies of one more
ALL_TOKENS = 2**31 - 1  # a top_k that leaves out none, and that still fits into vLLM's messages


def parameters(
    sampling: Sampling,
    constraint: Constraint | None,
    stop_token_ids: list[int],
    max_new_tokens: int,
    logprobs: int | None,
    *,
    prompt_logprobs: bool = False,
) -> SamplingParams:
    """VLLM's parameters for a complete `sampling`. Raises UsageError for what cannot be done.

    It generates at least one token, also where only the prompt's log-probabilities are asked for.
    """
    if len(sampling.logit_bias) > BIASES:
        raise UsageError(f"vLLM takes a logit_bias of at most {BIASES:,} tokens, got {len(sampling.logit_bias):,}")
    structured = None
    if constraint is not None:
        llguidance.check(constraint)
        structured = StructuredOutputsParams(grammar=llguidance.lark(constraint))
    return SamplingParams(
        temperature=sampling.temperature if sampling.top_p else 0.0,  # vLLM has no top_p 0
        top_p=sampling.top_p or 1.0,
        top_k=min(sampling.top_k or 0, ALL_TOKENS),
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        seed=sampling.seed,
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=logprobs,
        prompt_logprobs=(logprobs or 0) if prompt_logprobs else None,
        max_tokens=max(max_new_tokens, 1),
        stop_token_ids=stop_token_ids,
        ignore_eos=True,  # those and no others
        structured_outputs=structured,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


Logprobs = Sequence[Mapping[int, Logprob] | None]  # for each token its own and the most probable ones


def probabilities(tokens: Sequence[int], logprobs: Logprobs | None, top: int) -> list[TokenLogprob]:
    """Of tokens, with the `top` most probable ones each; none where none were asked for."""

    def alternatives(by_token: Mapping[int, Logprob]) -> tuple[tuple[int, float], ...]:
        ranked = sorted(by_token.items(), key=lambda item: item[1].rank)
        return tuple((token, value.logprob) for token, value in ranked[:top])

    return [
        TokenLogprob(token, by_token[token].logprob, alternatives(by_token))
        for token, by_token in zip(tokens, logprobs or (), strict=False)
        if by_token is not None  # as for the first token of a prompt
    ]
