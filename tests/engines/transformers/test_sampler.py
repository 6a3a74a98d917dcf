"""The batched sampler: equal to transformers' processors row by row, to itself alone, and no dearer for many."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import RepetitionPenaltyLogitsProcessor
from transformers.generation.logits_process import SequenceBiasLogitsProcessor

from arriero.engines.transformers.sampler import BatchSampler, Sampler
from arriero.errors import EngineError, UsageError
from arriero.messages import Sampling
from tests.engines.warpers import warpers

VOCABULARY = 70  # more than two words of a grammar's mask, and not a whole number of them


class EveryOther:
    """A grammar, as far as a sampler knows one: even ids below `vocabulary` may come next."""

    vocabulary = 66

    def __init__(self, broken=False):
        self.broken, self.accepted = broken, []

    def fill(self, bits, row):
        if self.broken:
            raise UsageError("no further")
        bits[row] = 0x55555555

    def accept(self, token):
        self.accepted.append(token)


def optional(values):
    return st.one_of(st.none(), values)


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=optional(st.sampled_from([0, 1, 5, 69, 200])),
    top_p=optional(st.sampled_from([0.0, 0.2, 0.9, 1.0])),
    min_p=optional(st.sampled_from([0.0, 0.05, 0.5])),
    repetition_penalty=optional(st.sampled_from([0.7, 1.0, 1.4])),
    presence_penalty=optional(st.sampled_from([0.0, 0.7])),
    frequency_penalty=optional(st.sampled_from([0.0, -0.3, 0.4])),
    logit_bias=st.sampled_from([(), ((3, 4.0), (69, -100.0))]),
    seed=st.integers(0, 3),
)
REQUESTS = st.tuples(SAMPLINGS, st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), st.booleans())


def make(request, alternatives=None):
    sampling, prompt, constrained = request
    return Sampler(prompt, sampling, EveryOther() if constrained else None, alternatives)


def logits_of(*seeds):
    """A row for each seed, whatever the other rows are."""
    rows = [torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3 for seed in seeds]
    return torch.stack(rows)


def expected_probabilities(request, logits, answer):
    """By transformers' processors, and OpenAI's formula for what those do not have."""
    sampling, prompt, constrained = request
    scores = logits[None]
    if sampling.logit_bias:
        scores = SequenceBiasLogitsProcessor({(token,): bias for token, bias in sampling.logit_bias})(None, scores)
    if sampling.repetition_penalty not in (None, 1):
        ids = torch.tensor([[*prompt, *answer]])
        scores = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(ids, scores)
    for token, count in Counter(answer).items():
        scores[0, token] -= (sampling.presence_penalty or 0) + (sampling.frequency_penalty or 0) * count
    if constrained:
        scores[:, torch.arange(VOCABULARY) % 2 == 1] = -torch.inf
        scores[:, EveryOther.vocabulary :] = -torch.inf
    return warpers(sampling.temperature or 1.0, sampling.top_k, sampling.top_p, sampling.min_p)(None, scores).softmax(
        -1
    )


@given(st.lists(REQUESTS, min_size=1, max_size=5))
def test_every_row_has_the_probabilities_that_transformers_gives_it_alone(requests):
    samplers = [make(request) for request in requests]
    batch = BatchSampler()
    answers = [[] for _ in requests]
    for step in range(4):
        logits = logits_of(*range(10 * step, 10 * step + len(requests)))
        result = batch.sample(logits, samplers)
        for row, ((token, logprob), request) in enumerate(zip(result, requests, strict=True)):
            expected = expected_probabilities(request, logits[row].clone(), answers[row])[0]
            assert expected[token] > 0
            assert request[0].temperature or token == int(expected.argmax())
            assert logprob is None
            answers[row].append(token)
    if batch._filters is not None:  # after the last step, whose tokens are counted by now
        filtered = batch._filters(batch._sampled.of(batch._process(logits, {})), VOCABULARY)
        for row, probabilities in zip(batch._sampled.numbers, filtered, strict=True):
            expected = expected_probabilities(requests[row], logits[row].clone(), answers[row])[0]
            torch.testing.assert_close(probabilities, expected, rtol=1e-5, atol=1e-7)


@given(st.lists(REQUESTS, min_size=1, max_size=5), st.integers(1, VOCABULARY))
def test_few_candidates_give_the_tokens_that_all_of_them_give(requests, candidates):
    """Also where they hold one row's nucleus and not another's, and whatever was counted or drawn before."""
    answers = []
    for count in (candidates, VOCABULARY):
        samplers, batch = [make(request) for request in requests], BatchSampler(count)
        answers.append([batch.sample(logits_of(*range(step, step + len(requests))), samplers) for step in range(4)])
    assert answers[0] == answers[1]


def test_candidates_that_do_not_hold_the_nucleus_are_not_enough():
    flat = Sampler([1], Sampling(temperature=1.0, top_p=0.99, seed=0), None, None)
    batch = BatchSampler(candidates=8)
    tokens = {batch.sample(torch.zeros(1, VOCABULARY), [flat])[0][0] for _ in range(60)}
    assert len(tokens) > 20


@given(st.lists(REQUESTS, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_what_a_request_samples_is_the_same_in_whatever_company(requests, random):
    """Rows join, leave and change places between steps; each keeps its own random numbers and its own past."""

    def logits_for(number, step):
        return logits_of(100 * number + step)[0]

    alone = []
    for number, request in enumerate(requests):
        sampler, own = make(request), BatchSampler()
        alone.append([own.sample(logits_for(number, step)[None], [sampler])[0] for step in range(5)])
    samplers, done, batch = [make(request) for request in requests], [[] for _ in requests], BatchSampler()
    while left := [number for number, answer in enumerate(done) if len(answer) < 5]:
        company = random.sample(left, random.randint(1, len(left)))
        logits = torch.stack([logits_for(number, len(done[number])) for number in company])
        for number, result in zip(company, batch.sample(logits, [samplers[n] for n in company]), strict=True):
            done[number].append(result)
    assert done == alone


@pytest.mark.parametrize("joins", [[], [2]])
def test_penalties_go_on_where_an_adapter_brings_more_tokens(joins):
    """An answer in flight with a penalty failed, and its batch with it, where loading one resized the embedding."""
    penalties = Sampling(temperature=0.0, repetition_penalty=1.4), Sampling(temperature=0.0, frequency_penalty=0.7)
    requests = [(penalties[0], [3, 5], False), (penalties[1], [4], False), (penalties[1], [6], False)]

    def answers(*widths):
        samplers, batch, tokens = [make(request) for request in requests], BatchSampler(), []
        for width, company in zip(widths, [[0, 1]] * 3 + [[0, 1, *joins]] * 3, strict=True):
            logits = torch.full((len(company), width), -torch.inf)
            logits[:, :VOCABULARY] = logits_of(0, 1, 2)[company]  # the same in each step: only penalties change tokens
            tokens.append(batch.sample(logits, [samplers[number] for number in company]))
        return tokens

    more = VOCABULARY + 5
    wide = answers(*[more] * 6)
    assert answers(*[VOCABULARY] * 3, *[more] * 3) == wide
    assert len({str(tokens[:2]) for tokens in wide[2:]}) > 1, "what was counted before matters after it"


class Operators(TorchDispatchMode):
    """Counts what is computed, and what waits for the device to know a value or a size."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")

    def __init__(self):
        super().__init__()
        self.count, self.waits = 0, []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        name = operator.overloadpacket.__name__
        indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
        masks = [index for index in indices if isinstance(index, torch.Tensor) and index.dtype == torch.bool]
        if name in self.WAITING or masks:
            self.waits.append(name)
        return operator(*args, **(kwargs or {}))


EVERYTHING = Sampling(
    temperature=0.8,
    top_k=20,
    top_p=0.9,
    min_p=0.02,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.1,
    logit_bias=((5, 1.0),),
    seed=0,
)


def operators(count):
    """What one step takes for `count` requests, each with all there is, once the batch has been made."""
    samplers = [Sampler([1, 2, 3], EVERYTHING, EveryOther(), 3) for _ in range(count)]
    batch, logits = BatchSampler(), logits_of(*range(count))
    batch.sample(logits, samplers)
    for sampler in samplers:
        sampler.draw = lambda: 0.5  # a number each, on the host, which is no work for the device
    with Operators() as seen:
        batch.sample(logits, samplers)
    return seen


def test_a_step_computes_no_more_operators_for_many_requests_and_waits_once():
    """Each request was once processed on its own: 104 operators for two and 1,034 for 32."""
    few, many = operators(2), operators(32)
    assert few.count == many.count < 100
    assert few.waits == many.waits == []


def test_log_probabilities_are_of_those_who_asked():
    wants = [None, 0, 3, None, 1]
    samplers = [Sampler([1], Sampling(temperature=0.0), None, count) for count in wants]
    logits = logits_of(*range(5))
    expected = logits.log_softmax(-1)
    for row, (token, logprob) in enumerate(BatchSampler().sample(logits, samplers)):
        if wants[row] is None:
            assert logprob is None
            continue
        values, best = expected[row].topk(wants[row])
        assert (logprob.token_id, logprob.logprob) == (token, float(expected[row, token]))
        assert logprob.top == tuple(zip(best.tolist(), values.tolist(), strict=True))


def test_what_goes_wrong_with_one_request_is_its_own():
    requests = [EveryOther(), EveryOther(broken=True), None, None]
    samplers = [Sampler([1], Sampling(temperature=1.0, seed=0), grammar, 1) for grammar in requests]
    logits = logits_of(0, 1, 2, 3)
    logits[2] = torch.nan
    first, broken, no_numbers, last = BatchSampler().sample(logits, samplers)
    assert first[0] % 2 == 0
    assert isinstance(broken, UsageError)
    assert isinstance(no_numbers, EngineError)
    assert "no finite numbers" in str(no_numbers)
    assert last == BatchSampler().sample(logits[3:], [Sampler([1], Sampling(temperature=1.0, seed=0), None, 1)])[0]


@pytest.mark.parametrize("vocabulary", [33, 262])
def test_a_real_grammars_bits_are_its_ids(vocabulary):
    from llguidance import LLTokenizer

    from arriero.constraint import Choice, Text
    from arriero.engines.llguidance import Grammar, bitmask, lark

    grammar = Grammar(LLTokenizer("byte"), lark(Choice((Text("a"), Text("c")))))
    allowed = grammar.allowed()
    assert allowed.nonzero()[0].tolist() == [ord("a"), ord("c")]
    bits = bitmask(2, grammar.vocabulary)
    grammar.fill(bits, 1)
    assert bits[0].tolist() == [-1] * bits.shape[1]
    sampler = Sampler([1], Sampling(temperature=0.0), grammar, None)
    logits = torch.from_numpy(np.linspace(0, 1, vocabulary, dtype=np.float32))[None]
    (result,) = BatchSampler().sample(logits, [sampler])
    if vocabulary > ord("c"):
        assert result[0] == ord("c")
    else:
        assert isinstance(result, EngineError), "nothing that the model has is allowed"
