"""Penalties, filters, seeds, log-probabilities and grammars, end to end."""

from __future__ import annotations

import json

import pytest
import torch

from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.errors import UsageError
from arriero.messages import Sampling
from tests.conftest import build_tokenizer
from tests.engines.transformers.support import (
    END,
    GREEDY,
    PLAIN,
    PROMPT,
    generated,
    logits_of,
    prompts,
)


def test_penalties_on_prompt_and_answer_are_those_of_generate(engine, model):
    for penalty in (1.3, 0.7):
        chosen = Sampling(repetition_penalty=penalty).over(GREEDY)
        answer = list(engine.submit(PROMPT, chosen, max_new_tokens=20))
        assert answer == generated(model, PROMPT, 20, repetition_penalty=penalty)
    assert answer != generated(model, PROMPT, 20)


def test_presence_frequency_and_bias_count_the_answer_only(engine, model):
    """Against the formula of OpenAI's API reference, written out."""
    chosen = Sampling(presence_penalty=1.5, frequency_penalty=0.75, logit_bias=((77, 9.0), (78, -100.0))).over(GREEDY)
    expected: list[int] = []
    for _ in range(25):
        logits = logits_of(model, PROMPT + expected)
        logits[77] += 9
        logits[78] -= 100
        for token in set(expected):
            logits[token] -= 0.75 * expected.count(token) + 1.5
        expected.append(int(logits.argmax()))
        if expected[-1] == END:
            break
    others = [engine.submit(PROMPT, GREEDY, max_new_tokens=20) for _ in range(2)]
    assert list(engine.submit(PROMPT, chosen, max_new_tokens=25)) == expected
    assert [list(other) for other in others] == [generated(model, PROMPT, 20)] * 2
    assert 77 in expected


@pytest.mark.parametrize(
    "shape", [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"temperature": 0.5, "top_k": 40, "top_p": 0.9}]
)
def test_draws_follow_the_distribution_of_generate(engine, model, shape):
    chosen = Sampling(**{"temperature": 1.5, **shape}).over(PLAIN)
    count = 600
    answers = [
        engine.submit(PROMPT, Sampling(seed=seed).over(chosen), max_new_tokens=1, logprobs=0) for seed in range(count)
    ]
    drawn = torch.bincount(torch.tensor([next(iter(answer)) for answer in answers]), minlength=262) / count
    ids = torch.tensor([PROMPT])
    settings = {"top_k": 0, "temperature": 1.5, **shape}
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=1,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        **settings,
    )
    expected = out.scores[0][0].softmax(-1)
    assert not drawn[expected == 0].any()
    likely = expected > 0.02
    deviation = (expected * (1 - expected) / count).sqrt()
    assert ((drawn - expected).abs() < 4.5 * deviation)[likely].all()
    assert likely.sum() > 2


def test_a_seed_gives_the_same_answer_whatever_else_runs(engine):
    chosen = Sampling(temperature=1.3, top_p=0.95, seed=11).over(PLAIN)
    alone = list(engine.submit(PROMPT, chosen, max_new_tokens=30))
    crowd = [engine.submit(ids, Sampling(temperature=2.0).over(PLAIN), max_new_tokens=n) for ids, n in prompts(12)]
    amid = engine.submit(PROMPT, chosen, max_new_tokens=30)
    assert list(amid) == alone
    assert len({tuple(engine.submit(PROMPT, Sampling(seed=n).over(chosen), max_new_tokens=9)) for n in range(5)}) > 1
    for each in crowd:
        list(each)


def test_logprobs_are_the_models_own(engine, model):
    """Before penalties, bias, temperature and grammar."""
    chosen = Sampling(temperature=0.7, top_k=3, repetition_penalty=1.4, logit_bias=((90, 5.0),), seed=3).over(PLAIN)
    other = engine.submit(PROMPT[:3], GREEDY, max_new_tokens=15)
    answer = engine.submit(PROMPT, chosen, max_new_tokens=12, logprobs=4, constraint=JsonSchema({"type": "string"}))
    ids = list(answer)
    assert [entry.token_id for entry in answer.logprobs] == ids
    for at, entry in enumerate(answer.logprobs):
        expected = logits_of(model, PROMPT + ids[:at]).log_softmax(-1)
        assert entry.logprob == pytest.approx(float(expected[ids[at]]), abs=1e-4)
        values, best = expected.topk(4)
        assert [token for token, _ in entry.top] == best.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert len(list(other)) > 0
    assert other.logprobs == []
    none = engine.submit(PROMPT, GREEDY, max_new_tokens=2, logprobs=0)
    list(none)
    assert [entry.top for entry in none.logprobs] == [(), ()]


CALL = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}
TOOL = Series((Text('<call "\\\n'), JsonSchema(CALL), Text("</骆驼>")))


def text_of(ids):
    return build_tokenizer().decode(ids, skip_special_tokens=True)


def test_an_answer_fits_its_constraint_and_ends(engine):
    """Random weights would never write it by themselves; many constraints and free answers share the batch."""
    wild = Sampling(temperature=2.0).over(PLAIN)
    free = [engine.submit(PROMPT, wild, max_new_tokens=40) for _ in range(3)]
    constraint = Choice((TOOL, JsonSchema({"type": "array", "items": {"type": "boolean"}, "maxItems": 3})))
    answers = [
        engine.submit(PROMPT, Sampling(seed=seed).over(wild), max_new_tokens=200, constraint=constraint)
        for seed in range(12)
    ]
    texts = [text_of(list(answer)) for answer in answers]
    assert {answer.finish_reason for answer in answers} == {"stop"}
    for text in texts:
        if text.startswith("<"):
            assert text.startswith('<call "\\\n')
            assert text.endswith("</骆驼>")
            assert json.loads(text[8:-5])["n"] in (1, 22)
        else:
            assert all(isinstance(value, bool) for value in json.loads(text))
    assert len({text[0] for text in texts}) == 2
    assert [len(list(each)) > 0 for each in free] == [True] * 3


def test_white_space_in_json_ends(engine):
    """A weak model can prefer blank lines to all else."""
    blank = Sampling(logit_bias=((6 + ord("\n"), 100.0),)).over(GREEDY)
    answer = engine.submit(PROMPT, blank, max_new_tokens=240, constraint=JsonSchema(CALL))
    assert json.loads(text_of(list(answer)))["n"] in (1, 22)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("schema", "reason"),
    [({"not": {"type": "null"}}, 'Unimplemented keys: \\["not"\\]'), ({"format": "foo"}, "Unknown format: foo")],
)
def test_a_schema_that_cannot_be_done_is_refused_at_once(engine, schema, reason):
    with pytest.raises(UsageError, match=f"^the schema cannot be used: {reason}$"):
        engine.submit(PROMPT, GREEDY, max_new_tokens=5, constraint=Series((Text("x"), JsonSchema(schema))))
