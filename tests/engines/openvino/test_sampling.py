"""The library's sampler: filters, penalties, seeds, log-probabilities."""

from __future__ import annotations

import pytest
import torch

from arriero.messages import Sampling
from tests.engines.openvino.support import (
    END,
    GREEDY,
    LONG,
    PLAIN,
    PROMPT,
    ids,
    reference,
)


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_the_repetition_penalty_covers_prompt_and_answer_as_in_transformers(penalty, shared, model):
    options = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": END, "pad_token_id": 0}
    prompt = torch.tensor([PROMPT])
    expected = model.generate(prompt, attention_mask=prompt > 0, repetition_penalty=penalty, **options)[
        0, len(PROMPT) :
    ]
    assert ids(shared, Sampling(temperature=0.0, repetition_penalty=penalty).over(PLAIN), count=40) == expected.tolist()


@pytest.mark.parametrize("option", [{"top_k": 7}, {"top_p": 0.3}, {"min_p": 0.4}, {}])
def test_sampling_draws_what_a_filter_keeps_and_nothing_else(option, shared, model):
    with torch.inference_mode():
        chances = (model(torch.tensor([PROMPT])).logits[0, -1] / 1.5).softmax(-1)
    ordered, order = chances.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.ones_like(ordered, dtype=torch.bool)
    kept[option.get("top_k", len(kept)) :] = False
    kept &= (before < option.get("top_p", 1.1)) & (ordered >= option.get("min_p", 0) * ordered[0])
    sampling = [Sampling(temperature=1.5, seed=seed, **option).over(PLAIN) for seed in range(400)]
    drawn = [shared.submit(PROMPT, each, max_new_tokens=1) for each in sampling]
    counts = torch.bincount(torch.tensor([next(iter(each)) for each in drawn]), minlength=262)[order] / 400
    expected = ordered * kept / (ordered * kept).sum()
    assert counts[~kept].sum() == 0
    assert (counts - expected).abs().sum() / 2 < 0.3  # total variation; of 400 draws about 0.1 to 0.25 by chance


def test_a_seed_gives_the_same_answer_alone_and_beside_others(shared):
    sampling = Sampling(temperature=1.5, seed=0).over(PLAIN)
    alone = ids(shared, sampling, count=40)
    others = [
        shared.submit(LONG[: 20 + n], Sampling(temperature=1.5, seed=n).over(PLAIN), max_new_tokens=60)
        for n in range(8)
    ]
    assert [ids(shared, sampling, count=40) for _ in range(2)] == [alone] * 2
    assert len({tuple(other) for other in others}) == 8
    assert len({tuple(ids(shared, Sampling(temperature=1.5).over(PLAIN))) for _ in range(4)}) == 4


def test_log_probabilities_are_the_models_own(shared, model):
    """Neither temperature nor filters nor penalties change them."""
    sampling = Sampling(temperature=2.0, top_k=5, repetition_penalty=1.3, seed=3).over(PLAIN)
    generation = shared.submit(PROMPT, sampling, max_new_tokens=20, logprobs=0)
    generated = list(generation)
    assert [each.token_id for each in generation.logprobs] == generated
    expected = reference(model, PROMPT, generated)[range(len(generated)), generated]
    assert (torch.tensor([each.logprob for each in generation.logprobs]) - expected).abs().max() < 1e-3
    assert shared.submit(PROMPT, GREEDY, max_new_tokens=2).logprobs == []
