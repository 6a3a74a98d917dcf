"""The loop of our own: penalties, bias, alternatives, constraints, its paged KV cache."""

from __future__ import annotations

import pytest
import torch

from arriero.constraint import Choice, Text
from arriero.engines.openvino import cache, engine, exported
from arriero.engines.openvino.paged import BlockTable, Chunk, PagedModel
from arriero.engines.openvino.sampler import Sampler
from arriero.errors import UsageError
from arriero.messages import Sampling
from tests.engines.openvino.support import (
    END,
    GREEDY,
    LONG,
    PLAIN,
    PROMPT,
    ids,
    loaded,
    logits_after,
    reference,
)
from tests.engines.warpers import warpers


@pytest.mark.parametrize("sampling", [{}, {"repetition_penalty": 1.3}])
def test_the_loop_answers_as_the_library_does(sampling, shared):
    """`logprobs=1` goes through the loop; long prompts are read in chunks, and others go on beside them."""
    chosen = Sampling(**sampling).over(GREEDY)
    begun = [shared.submit(LONG[:length], chosen, max_new_tokens=40, logprobs=1) for length in (3, 64, 200)]
    for length, generation in zip((3, 64, 200), begun, strict=True):
        assert list(generation) == ids(shared, chosen, LONG[:length], count=40)


@pytest.mark.parametrize(
    "options",
    [
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.7, "presence_penalty": 0.3},
        {"frequency_penalty": -2.0},
        {"logit_bias": ((83, -100.0), (7, 4.0))},
    ],
)
def test_penalties_and_bias_are_added_whatever_the_sign_of_the_logit(options, shared, model):
    """GenAI's own penalties raise logits that are below 0, which is why they are not used."""
    sampling = Sampling(**options).over(GREEDY)
    expected = []
    for _ in range(30):
        logits = logits_after(model, PROMPT + expected).clone()
        for token, bias in sampling.logit_bias:
            logits[token] += bias
        for token in set(expected):
            logits[token] -= sampling.presence_penalty + sampling.frequency_penalty * expected.count(token)
        expected.append(int(logits.argmax()))
    assert ids(shared, sampling, count=30) == expected[: expected.index(END) + 1 if END in expected else None]
    assert expected != ids(shared, count=30)


@pytest.mark.parametrize("option", [{"top_k": 7}, {"top_p": 0.3}, {"min_p": 0.4}, {"top_k": 9, "top_p": 0.6}, {}])
def test_the_sampler_draws_what_a_filter_keeps_and_nothing_else(option, model):
    logits = logits_after(model, PROMPT)
    expected = warpers(1.5, option.get("top_k"), option.get("top_p"), option.get("min_p"))(None, logits[None]).softmax(
        -1
    )[0]
    sampler = Sampler(PROMPT, Sampling(temperature=1.5, seed=0, **option).over(PLAIN), None)
    drawn = torch.tensor([sampler.sample(logits.numpy()) for _ in range(4000)])
    counts = torch.bincount(drawn, minlength=262) / 4000
    assert counts[expected == 0].sum() == 0
    assert (counts - expected).abs().sum() / 2 < 0.1  # total variation


def test_a_seed_gives_the_same_answer_in_the_loop_too(shared):
    def begin(seed):
        chosen = Sampling(temperature=1.5, seed=seed, logit_bias=((7, 1.0),)).over(PLAIN)
        return shared.submit(PROMPT, chosen, max_new_tokens=40)

    alone = list(begin(0))
    crowd = [begin(seed) for seed in (0, 1, 2, 0)]
    answers = [list(generation) for generation in crowd]
    assert answers[0] == answers[3] == alone
    assert len(set(map(tuple, answers))) == 3


def test_alternatives_are_the_models_own(shared, model):
    chosen = Sampling(temperature=2.0, presence_penalty=1.0, seed=3).over(PLAIN)
    generation = shared.submit(PROMPT, chosen, max_new_tokens=20, logprobs=4)
    generated = list(generation)
    expected = reference(model, PROMPT, generated)
    for row, (token, entry) in enumerate(zip(generated, generation.logprobs, strict=True)):
        values, best = expected[row].topk(4)
        assert entry.token_id == token
        assert entry.logprob == pytest.approx(float(expected[row, token]), abs=1e-3)
        assert [other for other, _ in entry.top] == best.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-3)


def test_the_loop_keeps_base_and_adapters_apart(make, model_dir, adapters, alone):
    one = make(model_dir)
    handles = loaded(one, adapters)
    begun = {
        name: [one.submit(PROMPT, GREEDY, max_new_tokens=24, adapter=handle, logprobs=top) for top in (1, None, 1)]
        for name, handle in handles.items()
    }
    for name, generations in begun.items():
        assert [list(generation) for generation in generations] == [alone[name][0]] * 3


def test_a_constraint_holds_in_the_loop(shared):
    sampling = Sampling(temperature=1.0, seed=1, presence_penalty=0.5).over(PLAIN)
    constraint = Choice((Text("yes"), Text("no")))
    answer = ids(shared, sampling, constraint=constraint)
    assert bytes(token - 6 for token in answer[:-1]) in (b"yes", b"no")
    assert answer[-1] == END


def test_a_bias_of_a_token_that_the_model_lacks_fails_alone(shared):
    with pytest.raises(UsageError, match="logit_bias names the token 999"):
        ids(shared, Sampling(logit_bias=((999, 1.0),)).over(GREEDY))
    with pytest.raises(UsageError, match="no tokens"):
        ids(shared, prompt=[], logprobs=1)
    assert len(ids(shared, logprobs=1)) == 24


def test_the_cache_of_the_loop_grows_and_is_given_back(model_dir, in_process, shared):
    """More than what it has at the beginning, 16 blocks of 32; cancelled ones give theirs back too."""
    paged = PagedModel(exported(model_dir, "float32") / cache.MODEL, engine.PROPERTIES["float32"])
    long, short = BlockTable(), BlockTable()
    (first,) = [each.copy() for each in paged.forward([Chunk(short, PROMPT)])]
    for start in range(0, 200, 50):
        paged.forward([Chunk(BlockTable(), LONG[:190]), Chunk(long, LONG[start : start + 50])])
    assert paged._total > 16
    again = paged.forward([Chunk(long, LONG[200:]), Chunk(BlockTable(), PROMPT)])[1]
    assert again.argmax() == first.argmax()
    assert abs(again - first).max() < 1e-4
    here = in_process()
    here.give("open", key=0, adapter=None, now=False)
    config = engine.loop_config(GREEDY, 40, 1, prompt_logprobs=False)
    for number in range(1, 5):
        here.give("put", key=0, kind="loop", number=number, ids=LONG, config=config, stop_token_ids=[END])
    here.until("ids", 4)
    loop = here.worker._pipelines[0, "loop"]
    assert loop._pipeline._total > 16
    for number in range(1, 5):
        here.give("cancel", number=number)
    here.worker.round()
    assert [here.said.count(("end", number, "cancelled")) for number in range(1, 5)] == [1] * 4
    assert len(loop._pipeline._free) == loop._pipeline._total == 16


def test_a_loop_that_failed_is_built_again(in_process):
    here = in_process()
    here.give("open", key=0, adapter=None, now=False)
    config = engine.loop_config(GREEDY, 4, 1, prompt_logprobs=False)
    request = {"key": 0, "kind": "loop", "ids": PROMPT, "config": config, "stop_token_ids": [END]}
    here.give("put", number=1, **request)
    here.until("end", 1)

    class Full:
        def forward(self, parts):
            raise MemoryError

    here.worker._pipelines[0, "loop"]._pipeline = Full()
    here.give("put", number=2, **request)
    here.until("fail", 2, "MemoryLimitError")
    here.give("put", number=3, **request)
    here.until("end", 3)
    assert here.ids(3) == here.ids(1)
