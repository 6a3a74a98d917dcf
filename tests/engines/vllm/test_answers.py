"""Answers: the reference's, in any company, under penalties, bias and constraints."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from arriero.constraint import Choice, JsonSchema, Series, Text
from arriero.errors import UsageError
from tests.engines.vllm.support import GREEDY, LENGTH, OTHERS_WARNINGS, RANDOM, WHO, submit

pytest.importorskip("vllm", reason="there is no vLLM here: benchmarks/vllm_engine.sh")
pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(400), OTHERS_WARNINGS]


def test_greedy_answers_are_those_of_the_reference(engine, prompts, expected, handles):
    found = {key: list(submit(engine, prompts[key[1]], adapter=handles[key[0]])) for key in expected}
    assert found == expected


def test_adapters_side_by_side_answer_as_each_alone(engine, prompts, expected, handles):
    """Twice at once, so that base and adapters share steps of the model, and prompts are found in the KV cache."""
    jobs = [key for _ in range(2) for key in expected]
    running = [(key, submit(engine, prompts[key[1]], adapter=handles[key[0]])) for key in jobs]
    assert all(list(generation) == expected[key] for key, generation in running)
    for who in (None, "a", None, "b", "a", None):
        assert list(submit(engine, prompts[3], adapter=handles[who])) == expected[who, 3]


def test_stop_and_length_are_told_apart(engine, prompts, expected, renderer):
    ended = submit(engine, prompts[0], count=LENGTH)
    assert list(ended)[-1] in renderer.stop_token_ids
    assert ended.finish_reason == "stop"
    cut = submit(engine, prompts[0], count=3)
    assert list(cut) == expected[None, 0][:3]
    assert (cut.finish_reason, cut.prompt_tokens, cut.completion_tokens) == ("length", len(prompts[0]), 3)


async def test_an_event_loop_reads_it_too(engine, prompts, expected):
    assert [token async for token in submit(engine, prompts[1])] == expected[None, 1]


def test_the_same_seed_gives_the_same_answer_in_any_company(engine, prompts):
    seeded = replace(RANDOM, seed=7)
    alone = list(submit(engine, prompts[1], seeded))
    company = [submit(engine, prompts[1], replace(RANDOM, seed=seed)) for seed in (1, 7, 2, 7, 3)]
    first, *others = [list(generation) for generation in company]
    assert others[0] == others[2] == alone
    assert len({tuple(answer) for answer in (first, *others)}) == 4
    unseeded = {tuple(submit(engine, prompts[1], RANDOM)) for _ in range(4)}
    assert len(unseeded) == 4


@pytest.mark.parametrize("narrow", [{"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}])
def test_a_single_candidate_is_the_greedy_one(engine, prompts, expected, narrow):
    assert list(submit(engine, prompts[1], replace(RANDOM, **narrow))) == expected[None, 1]


def test_a_bias_forbids_and_forces(engine, prompts, expected):
    banned = expected[None, 1][0]
    assert banned not in list(submit(engine, prompts[1], replace(GREEDY, logit_bias=((banned, -100.0),))))
    assert list(submit(engine, prompts[1], replace(GREEDY, logit_bias=((77, 100.0),)), 5)) == [77] * 5


def test_penalties_are_those_of_the_reference(engine, prompts, expected, reference, renderer):
    """Repetition counts prompt and answer, presence and frequency the answer only."""
    import torch
    from transformers import GenerationConfig, LogitsProcessor

    class Penalties(LogitsProcessor):
        def __init__(self, presence_penalty=0.0, frequency_penalty=0.0):
            self.presence, self.frequency = presence_penalty, frequency_penalty

        def __call__(self, ids, scores):
            counts = torch.bincount(ids[0, len(prompts[1]) :], minlength=scores.shape[-1])
            return scores - self.presence * (counts > 0) - self.frequency * counts

    model, ends = reference(None), list(renderer.stop_token_ids)
    for own, ours in (
        ({"repetition_penalty": 1.3}, {}),
        ({}, {"presence_penalty": 2.0}),
        ({}, {"frequency_penalty": 2.0}),
    ):
        config = GenerationConfig(max_new_tokens=LENGTH, eos_token_id=ends, pad_token_id=0, **own)
        ids = torch.tensor([prompts[1]])
        output = model.generate(input_ids=ids, generation_config=config, logits_processor=[Penalties(**ours)])
        found = list(submit(engine, prompts[1], replace(GREEDY, **own, **ours)))
        assert found == output[0, len(prompts[1]) :].tolist()
        assert found != expected[None, 1]


def test_log_probabilities_are_the_models(engine, prompts, reference):
    import torch

    generation = submit(engine, prompts[1], replace(RANDOM, seed=3), logprobs=4)
    ids = list(generation)
    with torch.inference_mode():
        logits = reference(None)(torch.tensor([prompts[1] + ids])).logits[0, len(prompts[1]) - 1 : -1]
    true = torch.log_softmax(logits.float(), -1)
    assert [found.token_id for found in generation.logprobs] == ids
    for found, row in zip(generation.logprobs, true, strict=True):
        values, tokens = row.topk(4)
        assert found.logprob == pytest.approx(row[found.token_id].item(), abs=1e-3)
        assert [token for token, _ in found.top] == tokens.tolist()
        assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-3)
    plain = submit(engine, prompts[1], logprobs=0, count=2)
    assert [found.top for _, found in zip(plain, plain.logprobs, strict=True)] == [(), ()]
    assert submit(engine, prompts[1], count=2).logprobs == []


CALL = {
    "type": "object",
    "properties": {
        "name": {"const": "weather"},
        "days": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 70},  # bounded, or -777… goes on and on
    },
    "required": ["name", "days"],
    "additionalProperties": False,
}
COLOUR = {"enum": ["red", "green", {"grey": 1}]}


@pytest.mark.parametrize("who", WHO)
def test_a_constraint_always_holds(engine, prompts, renderer, handles, who):
    import jsonschema

    either = Choice((Series((Text("<call>\n"), JsonSchema(CALL), Text("</call>"))), JsonSchema(COLOUR), Text("no")))
    wild = [replace(RANDOM, temperature=1.5, seed=seed) for seed in range(12)]
    kinds = set()
    for generation in [submit(engine, prompts[3], one, 250, constraint=either, adapter=handles[who]) for one in wild]:
        *ids, last = list(generation)
        text = renderer.tokenizer.decode(ids)
        assert last in renderer.stop_token_ids, "blanks to the limit: vLLM's llguidance keeps to no whitespace_pattern"
        if text.startswith("<call>"):
            jsonschema.validate(json.loads(text.removeprefix("<call>\n").removesuffix("</call>")), CALL)
        elif text != "no":
            jsonschema.validate(json.loads(text), COLOUR)
        kinds.add(text[:1])
    assert who or len(kinds) > 1


def test_a_schema_nobody_can_do_is_refused_on_the_spot(engine, prompts):
    with pytest.raises(UsageError, match="schema"):
        submit(engine, prompts[0], constraint=JsonSchema({"type": "nonsense"}))
